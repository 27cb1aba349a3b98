from __future__ import annotations

import json
from pathlib import Path

import pytest

from envtool.channel import index
from tests.support.archives import Archive, File


def fill(channel: Path, records: dict[str, str]) -> None:
    for subdir in index.SUBDIRS:
        (channel / subdir).mkdir(exist_ok=True)
        own = {
            name.partition("/")[2]: {"sha256": sha256}
            for name, sha256 in records.items()
            if name.startswith(f"{subdir}/")
        }
        (channel / subdir / "repodata.json").write_text(json.dumps({"packages": {}, "packages.conda": own}))
        (channel / subdir / "repodata.json.zst").write_bytes(b"")


def test_an_index_is_current_when_it_lists_exactly_the_archives(tmp_path: Path) -> None:
    archives = {"noarch/a.conda": "1", "linux-64/b.conda": "2"}
    fill(tmp_path, archives)
    assert index.is_current(tmp_path, archives)
    assert not index.is_current(tmp_path, {"noarch/a.conda": "1"})
    assert not index.is_current(tmp_path, {**archives, "noarch/c.conda": "3"})
    assert not index.is_current(tmp_path, {**archives, "noarch/a.conda": "other"})


@pytest.mark.parametrize("name", ["noarch/repodata.json", "linux-64/repodata.json", "linux-64/repodata.json.zst"])
def test_an_index_that_lacks_a_file_is_not_current(tmp_path: Path, name: str) -> None:
    fill(tmp_path, {})
    assert index.is_current(tmp_path, {})
    (tmp_path / name).unlink()
    assert not index.is_current(tmp_path, {})


@pytest.mark.parametrize("content", ["", "{", "{}", '{"packages": {}}'])
def test_half_an_index_is_not_current(tmp_path: Path, content: str) -> None:
    fill(tmp_path, {})
    (tmp_path / "noarch" / "repodata.json").write_text(content)
    assert not index.is_current(tmp_path, {})


def test_the_time_at_which_an_archive_was_first_indexed_stays(tmp_path: Path) -> None:
    archive = Archive("timed", {"f": File(b"x")}).write(tmp_path)
    name = f"linux-64/{archive.name}"
    index.write(tmp_path, [name])
    repodata = tmp_path / "linux-64/repodata.json"
    content = json.loads(repodata.read_bytes())
    assert "indexed_timestamp" not in content["packages.conda"][archive.name]
    content["packages.conda"][archive.name]["indexed_timestamp"] = 1_750_000_000_000
    repodata.write_text(json.dumps(content))
    other = Archive("other", {"f": File(b"y")}).write(tmp_path)
    index.write(tmp_path, [name, f"linux-64/{other.name}"])
    records = json.loads(repodata.read_bytes())["packages.conda"]
    assert records[archive.name]["indexed_timestamp"] == 1_750_000_000_000
    assert "indexed_timestamp" not in records[other.name]
