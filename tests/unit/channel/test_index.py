from __future__ import annotations

import json
from pathlib import Path

import pytest

from envtool.channel import index


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
