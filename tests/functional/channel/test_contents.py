"""Channels that teams change: add, index, check, remove, gc, on real files."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.functional.prefix.conftest import User, user
from tests.support.archives import Archive, File

__all__ = ["user"]  # a fixture

FILES = {"share/a": File(b"a"), "bin/a": File(b"#!/bin/sh\n", 0o755), "share/link": File(link="a")}


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    """Three versions of one package, the newest in the old format, and one for every platform."""
    archives = [Archive("tool", FILES, version) for version in ("1.9", "1.10")]
    noarch = Archive("data", FILES, subdir="noarch", noarch="generic")
    paths = [archive.write(tmp_path / "made") for archive in (*archives, noarch)]
    return [*paths, Archive("tool", FILES, "2.0").write(tmp_path / "made", ".tar.bz2")]


def run(user: User, *arguments: object, code: int = 0) -> Any:
    return json.loads(user.run("channel", *arguments, "--json", code=code).stdout)


def snapshot(channel: Path) -> dict[str, str]:
    return {
        str(path.relative_to(channel)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(channel.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def listed(channel: Path) -> set[str]:
    found = set()
    for path in channel.glob("*/repodata.json"):
        repodata = json.loads(path.read_bytes())
        found |= {f"{path.parent.name}/{name}" for group in ("packages", "packages.conda") for name in repodata[group]}
    return found


def test_what_is_added_is_indexed_and_right(user: User, made: list[Path]) -> None:
    channel = user.home / "channel"
    names = {f"{path.parent.name}/{path.name}" for path in made}
    assert set(run(user, "add", channel, *made)["added"]) == names == listed(channel)
    assert run(user, "check", channel) == {"archives": 4, "issues": []}
    before = snapshot(channel)
    assert run(user, "add", channel, *made) == {"added": [], "removed": [], "kept": 4, "refused": []}
    assert snapshot(channel) == before
    run(user, "add", user.home / "other", *reversed(made))
    assert snapshot(user.home / "other") == before


def test_an_archive_that_contradicts_itself_is_not_added(user: User, tmp_path: Path, made: list[Path]) -> None:
    channel = user.home / "channel"
    lying = Archive("liar", FILES, lies={"share/a": "0" * 64}).write(tmp_path)
    assert "share/a has sha256" in user.run("channel", "add", channel, lying, code=3).stderr
    renamed = shutil.copy(made[0], tmp_path / "other-1.9-h1_0.conda")
    assert "is tool-1.9-h1_0 by its own" in user.run("channel", "add", channel, renamed, code=3).stderr
    half = tmp_path / "half" / made[1].name
    half.parent.mkdir()
    half.write_bytes(made[1].read_bytes()[:-100])
    assert "is not a valid package archive" in user.run("channel", "add", channel, half, code=3).stderr
    assert not channel.exists()
    run(user, "add", channel, made[0])
    other = replace(Archive("tool", FILES, "1.9"), files={"share/b": File(b"b")}).write(tmp_path / "again")
    assert "with other content" in user.run("channel", "add", channel, other, code=3).stderr
    assert listed(channel) == {"linux-64/tool-1.9-h1_0.conda"}


def test_check_names_what_does_not_fit(user: User, tmp_path: Path, made: list[Path]) -> None:
    channel = user.home / "channel"
    run(user, "add", channel, *made)
    with (channel / "linux-64" / "tool-1.9-h1_0.conda").open("ab") as file:
        file.write(b"x")
        size_bytes = file.tell()
    (channel / "noarch" / "data-1.0-h1_0.conda").unlink()
    Archive("stray", FILES, lies={"share/a": "0" * 64}).write(channel)
    (channel / "linux-64" / "repodata.json.zst").write_bytes(zstandard.ZstdCompressor().compress(b"{}"))
    (channel / "osx-arm64").mkdir()
    (channel / "osx-arm64" / "repodata.json").write_text("{")
    found = {
        (issue["place"], " ".join(issue["message"].split()[:2]))
        for issue in run(user, "check", channel, code=1)["issues"]
    }
    assert found == {
        ("linux-64/repodata.json.zst", "does not"),
        ("linux-64/tool-1.9-h1_0.conda", f"has {size_bytes}"),
        ("linux-64/tool-1.9-h1_0.conda", "has sha256"),
        ("linux-64/stray-1.0-h1_0.conda", "is not"),
        ("linux-64/stray-1.0-h1_0.conda", "share/a has"),
        ("noarch/data-1.0-h1_0.conda", "is in"),
        ("osx-arm64/repodata.json", "not found,"),
    }


def test_remove_and_gc(user: User, made: list[Path]) -> None:
    channel = user.home / "channel"
    run(user, "add", channel, *made)
    assert "has no tool-3*" in user.run("channel", "remove", channel, "tool-1*", "tool-3*", code=3).stderr
    assert len(listed(channel)) == 4
    assert run(user, "gc", channel, "--keep", "2")["removed"] == ["linux-64/tool-1.9-h1_0.conda"]
    assert run(user, "gc", channel, "--keep", "1")["removed"] == ["linux-64/tool-1.10-h1_0.conda"]
    assert run(user, "remove", channel, "noarch/data-*")["removed"] == ["noarch/data-1.0-h1_0.conda"]
    assert listed(channel) == {"linux-64/tool-2.0-h1_0.tar.bz2"}
    assert run(user, "check", channel)["issues"] == []


def test_shards_are_the_same_whenever_they_are_written(user: User, made: list[Path]) -> None:
    channel = user.home / "channel"
    run(user, "add", channel, *made)
    run(user, "index", channel, "--shards")
    before = snapshot(channel)
    assert len([name for name in before if "/shards/" in name]) == 2
    run(user, "index", channel)
    assert snapshot(channel) == before
    run(user, "remove", channel, "data-*")
    assert [name for name in snapshot(channel) if name.startswith("noarch/shards/")] == []
    run(user, "index", channel, "--no-shards")
    assert [name for name in snapshot(channel) if "shards" in name] == []


def test_an_archive_that_is_left_out_of_the_index_is_not_counted(user: User, made: list[Path]) -> None:
    channel = user.home / "channel"
    run(user, "add", channel, *made)
    (channel / "linux-64" / "broken-1-0.conda").write_bytes(b"no archive")
    assert run(user, "index", channel)["kept"] == len(listed(channel)) == 4
    said = user.run("channel", "index", channel).stderr
    assert "broken-1-0.conda is left out of the index" in said
    assert "4 archives are in the channel" in said


def test_an_archive_that_cannot_be_added_is_named_and_the_others_are(user: User, tmp_path: Path) -> None:
    good = Archive("good", {"share/good": File(b"good")}).write(tmp_path)
    strange = Archive("strange", {"share/strange": File()}, subdir="linux-fake").write(tmp_path)
    half = tmp_path / "half-1.0-h1_0.conda"
    half.write_bytes(good.read_bytes()[:200])
    channel = user.home / "mixed"
    told = user.run("channel", "add", channel, half, good, strange, code=3).stderr
    assert "added linux-64/good-1.0-h1_0.conda" in told
    assert f"{strange} cannot be in an index: 'linux-fake' is no platform that conda knows" in told
    assert f"{half} is not a valid package archive" in told or f"{half} is damaged" in told
    assert "hint: the others were added" in told
    assert "0 issues" in user.run("channel", "check", channel).stderr
    (channel / "linux-fake").mkdir()
    (channel / "linux-fake" / strange.name).write_bytes(strange.read_bytes())
    told = user.run("channel", "index", channel).stderr
    assert "warning: linux-fake is no platform that conda knows: its archives are left out of the index" in told
