"""`envtool channel build`, for real: what it makes, twice the same bytes, nothing done twice, safe to kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import select
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

from envtool.channel.edit import check_archive
from tests.support import conda_file


def bytes_of(channel: Path) -> dict[str, str]:
    return {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(channel.glob("*/*"))
        if path.is_file() and not path.parent.name.startswith(".")
    }


def times_of(channel: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in channel.glob("*/*") if path.name != "lock"}


def records(channel: Path, subdir: str) -> dict[str, Any]:
    return dict(json.loads((channel / subdir / "repodata.json").read_bytes())["packages.conda"])


def test_the_channel_holds_the_three_packages(channel: Any) -> None:
    names = {package["name"]: package for package in channel.report["packages"]}
    assert set(names) == {"envserve", "pip", "python"}
    assert channel.report["url"] == channel.path.as_uri()
    assert all(each["was_built"] for each in names.values())
    assert set(records(channel.path, "linux-64")) == {channel.archive("python").name}
    assert set(records(channel.path, "noarch")) == {channel.archive(name).name for name in ("envserve", "pip")}
    assert names["python"]["size_bytes"] < 12_000_000
    for each in names.values():
        content = (channel.path / each["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (each["size_bytes"], each["sha256"])


def test_the_index_says_what_the_archives_say(channel: Any) -> None:
    for subdir in ("linux-64", "noarch"):
        plain = (channel.path / subdir / "repodata.json").read_bytes()
        packed = (channel.path / subdir / "repodata.json.zst").read_bytes()
        assert zstandard.ZstdDecompressor().decompress(packed) == plain
        for name, record in records(channel.path, subdir).items():
            content = (channel.path / subdir / name).read_bytes()
            index = conda_file.read(channel.path / subdir / name).index
            assert record["sha256"] == hashlib.sha256(content).hexdigest()
            assert record["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
            assert record["size"] == len(content)
            for key in ("name", "version", "build", "build_number", "depends", "license", "subdir"):
                assert record[key] == index[key], key


def test_every_archive_holds_what_it_says(channel: Any) -> None:
    for name in ("envserve", "pip", "python"):
        found = conda_file.read(channel.archive(name))
        assert check_archive(channel.archive(name)) == []
        assert any(path.startswith("licenses/") for path in found.info), name
        assert f"name: {name}\n".encode() in found.info["recipe/recipe.yml"]


def test_the_licence_of_every_debian_package_is_kept(channel: Any) -> None:
    info = conda_file.read(channel.archive("python")).info
    kept = {path.split("/")[1] for path in info if path.startswith("licenses/")}
    assert {"libssl1.1", "libreadline8", "libpython3.9-minimal", "libsqlite3-0", "zlib1g"} <= kept


def test_packages_name_the_python_that_they_need(channel: Any) -> None:
    assert conda_file.read(channel.archive("python")).index["depends"] == ["__glibc >=2.29"]
    assert conda_file.read(channel.archive("pip")).index["depends"] == ["python >=3.9"]
    assert conda_file.read(channel.archive("envserve")).index["depends"] == ["python >=3.9"]
    link = json.loads(conda_file.read(channel.archive("envserve")).info["link.json"])
    scripts = ["envtool = envtool.__main__:main", "serve = serve.__main__:main"]
    assert link["noarch"]["entry_points"] == scripts


def test_our_own_package_has_the_files_that_are_no_modules(channel: Any) -> None:
    files = conda_file.read(channel.archive("envserve")).files
    for name in (
        "serve/gateway/page/index.html",
        "serve/gateway/page/page.js",
        "envtool/templates/variables.yml",
        "serve/examples/tabular/model.py",
    ):
        assert f"site-packages/{name}" in files


def test_two_builds_in_two_places_are_the_same_bytes(channel: Any, other_checkout: Any, tmp_path: Path) -> None:
    other_checkout.build(tmp_path / "again", umask=0o077, seed="42")
    assert bytes_of(tmp_path / "again") == bytes_of(channel.path)
    assert len(bytes_of(channel.path)) == 7


def test_a_second_run_does_nothing(channel: Any, checkout: Any) -> None:
    before = times_of(channel.path)
    again = checkout.build(channel.path)
    assert [package["was_built"] for package in again["packages"]] == [False] * 3
    assert times_of(channel.path) == before


def test_a_changed_checkout_supersedes_its_package_only(channel: Any, other_checkout: Any, tmp_path: Path) -> None:
    place = tmp_path / "channel"
    shutil.copytree(channel.path, place)
    foreign = place / "noarch" / "foreign-1.0-0.conda"
    shutil.copy(channel.archive("pip"), foreign)
    with (other_checkout.root / "serve" / "__init__.py").open("a") as file:
        file.write("# changed\n")
    report = {package["name"]: package for package in other_checkout.build(place)["packages"]}
    assert {name: each["was_built"] for name, each in report.items()} == {
        "envserve": True,
        "pip": False,
        "python": False,
    }
    old = channel.archive("envserve").name
    new = Path(report["envserve"]["path"]).name
    assert new != old
    assert not (place / "noarch" / old).exists()
    assert new in records(place, "noarch")
    assert old not in records(place, "noarch")
    assert foreign.exists(), "archives of others are none of our business"
    assert foreign.name in records(place, "noarch")


@pytest.mark.parametrize(
    "damage",
    [
        lambda channel: (channel / "noarch" / "repodata.json").write_text("{"),
        lambda channel: (channel / "noarch" / "repodata.json").unlink(),
        lambda channel: next((channel / "noarch").glob("pip-*.conda")).write_bytes(b"damaged"),
        lambda channel: next((channel / "noarch").glob("pip-*.conda")).unlink(),
        lambda channel: (channel / ".envtool" / "pip.json").write_text("{}"),
    ],
    ids=["half an index", "no index", "damaged archive", "no archive", "no state"],
)
def test_damage_in_the_channel_is_repaired(channel: Any, checkout: Any, tmp_path: Path, damage: Any) -> None:
    place = tmp_path / "channel"
    shutil.copytree(channel.path, place)
    damage(place)
    checkout.build(place, "pip")
    assert bytes_of(place) == bytes_of(channel.path)


def test_killed_at_any_moment_the_next_run_ends_well(channel: Any, checkout: Any, tmp_path: Path) -> None:
    place = tmp_path / "channel"
    for delay_s in (0.4, 0.8, 1.0, 1.2, 1.4, 1.6, 2.0):
        process = checkout.start("pip", "--output", str(place))
        time.sleep(delay_s)
        process.kill()
        process.communicate()
    checkout.build(place, "pip")
    assert records(place, "noarch").keys() == {channel.archive("pip").name}
    assert [path.name for path in place.glob("*/.*.tmp")] == []
    assert [path.name for path in place.glob(".index-*")] == []


def test_what_a_killed_run_left_is_swept_up(channel: Any, checkout: Any, tmp_path: Path) -> None:
    place = tmp_path / "channel"
    shutil.copytree(channel.path, place)
    left = [place / "noarch" / ".pip-1.conda.7.tmp", place / ".envtool" / ".pip.json.7.tmp"]
    for path in left:
        path.write_bytes(b"half")
    (place / ".index-abc" / "noarch").mkdir(parents=True)
    checkout.build(place, "pip")
    assert [path for path in (*left, place / ".index-abc") if path.exists()] == []
    assert bytes_of(place) == bytes_of(channel.path)


def test_a_build_waits_for_another_one_in_the_same_channel(channel: Any, checkout: Any, tmp_path: Path) -> None:
    place = tmp_path.resolve() / "channel"
    lock = place / ".envtool" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = checkout.start("pip", "--output", str(place))
        assert select.select([process.stderr], [], [], 60)[0], "it says nothing"
        assert process.stderr.readline() == f"another envtool is changing {place}; waiting for it\n"
        time.sleep(0.5)
        assert process.poll() is None
        assert list(place.glob("*/*.conda")) == []
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert (place / "noarch" / channel.archive("pip").name).read_bytes() == channel.archive("pip").read_bytes()


def test_three_builds_at_once_share_one_channel(channel: Any, checkout: Any, tmp_path: Path) -> None:
    place = tmp_path / "channel"
    running = [checkout.start("pip", "--output", str(place)) for _ in range(3)]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert (place / "noarch" / channel.archive("pip").name).read_bytes() == channel.archive("pip").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["nothing"], 3, "recipes: envserve, pip, python"),
        (["--no-such-option"], 2, "No such option"),
    ],
)
def test_what_cannot_be_done_is_said(
    checkout: Any, tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    process = checkout.start(*arguments, "--output", str(tmp_path / "channel"))
    out, errors = process.communicate()
    assert (process.returncode, out) == (code, "")
    assert expected in errors
    assert "Traceback" not in errors


def test_a_malformed_recipe_says_everything_and_builds_nothing(other_checkout: Any, tmp_path: Path) -> None:
    path = other_checkout.root / "channel" / "recipes" / "pip" / "recipe.yml"
    path.write_text("package:\n  nam: pip\n  version: 1.0\nsource:\n  wheel:\n    sha256: abc\n")
    process = other_checkout.start("--output", str(tmp_path / "channel"))
    out, errors = process.communicate()
    assert (process.returncode, out) == (3, "")
    for line in ("recipe.yml:2: unknown key 'nam'", "recipe.yml:3: version", "recipe.yml:6: sha256"):
        assert line in errors
    assert not (tmp_path / "channel").exists()


def test_a_wrong_hash_is_named_and_nothing_is_built(other_checkout: Any, tmp_path: Path) -> None:
    path = other_checkout.root / "channel" / "recipes" / "pip" / "recipe.yml"
    path.write_text(path.read_text().replace("sha256: b", "sha256: a"))
    process = other_checkout.start("pip", "--output", str(tmp_path / "channel"))
    _, errors = process.communicate()
    assert process.returncode == 3
    assert "Traceback" not in errors
    assert "hint:" in errors
    assert list((tmp_path / "channel").glob("*/*.conda")) == []
