"""Archives that conda-build and rattler-build made, odd ones among them, all in one channel and one environment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.functional.prefix.conftest import ROOT, User
from tests.support.archives import locked

PACKAGES = ROOT.parent / "shared" / "packages"
# Their Python is none that runs.
WITHOUT = ("python", "sample_noarch_python")


@pytest.fixture(scope="module")
def archives() -> list[Path]:
    if not PACKAGES.is_dir():
        pytest.skip(f"{PACKAGES} is not there: archives of conda and rattler, which are not part of this repository")
    return sorted([*PACKAGES.rglob("*.conda"), *PACKAGES.rglob("*.tar.bz2")])


def test_every_archive_is_indexed_or_named(user: User, archives: list[Path]) -> None:
    channel = user.home / "channel" / "noarch"
    channel.mkdir(parents=True)
    for archive in archives:
        shutil.copy(archive, channel)
    said = user.run("channel", "index", channel.parent).stderr
    assert [line for line in said.splitlines() if line.startswith("warning")] == [
        "warning: noarch/dotslash-test-1.0.0-0.conda is left out of the index: No index.json found"
    ]
    repodata = json.loads((channel / "repodata.json").read_bytes())
    assert len({**repodata["packages"], **repodata["packages.conda"]}) == len(archives) - 1
    said = user.run("channel", "add", user.home / "other", channel / "dotslash-test-1.0.0-0.conda", code=3).stderr
    assert "dotslash-test-1.0.0-0.conda cannot be in an index" in said


def test_an_environment_of_all_of_them_is_what_the_lock_says(user: User, archives: list[Path]) -> None:
    newest = {package.name: package for package in (locked(each.resolve()) for each in archives)}
    lock = user.write_lock(*(package for name, package in newest.items() if name not in WITHOUT))
    prefix = user.home / "env"
    said = user.run("create", "-p", prefix).stderr
    assert "warning: clobber-with-dir and clobber-without-dir bring the same path: dir" in said
    user.run("verify", "-p", prefix, "-f", lock)
    assert (prefix / "lib/data.txt").exists()  # its members begin with ./ and it has no paths.json
    assert (prefix / "lib/libhard.so").read_bytes() == (prefix / "lib/libreal.so.1").read_bytes()
    assert (prefix / "lib/blob.bin").stat().st_size == 150_000
    first = user.run("digest", "-p", prefix).stdout
    user.run("create", "-p", user.home / "second")
    assert user.run("digest", "-p", user.home / "second").stdout == first
