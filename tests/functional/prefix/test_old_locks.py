"""Locks of conda-lock's early days: packages with an MD5 alone, and wheels from git without a hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage
from tests.support.archives import Archive, File, locked
from tests.support.repodata_server import serving


def write_index(channel: Path, archive: Path, **changes: str) -> None:
    content = archive.read_bytes()
    hashes = {"md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest()}
    record = {"name": "tool", "version": "1.0", "build": "h1_0", "build_number": 0, "depends": [], "subdir": "linux-64"}
    known = {key: value for key, value in {**record, **hashes, **changes}.items() if value != ""}
    for subdir, records in (("linux-64", {archive.name: known}), ("noarch", {})):
        (channel / subdir).mkdir(exist_ok=True)
        index = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": records}
        (channel / subdir / "repodata.json").write_text(json.dumps(index))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return Archive("tool", {"share/tool": File(b"1")}).write(tmp_path / "channel")


def test_the_channels_record_has_the_sha256(user, tmp_path: Path, archive: Path) -> None:
    channel = tmp_path / "channel"
    write_index(channel, archive)
    with serving(channel) as base:
        old = replace(locked(archive), url=f"{base}/linux-64/{archive.name}", sha256=None)
        lock = user.write_lock(old)
        user.run("create", "-p", user.home / "prefix", "-f", lock)
        user.run("verify", "-p", user.home / "prefix", "-f", lock)
        assert "nothing to do" in user.run("create", "-p", user.home / "prefix", "-f", lock).stderr
        user.run("doctor", "-f", lock)


def test_the_doctor_reads_what_create_would_refuse(user, archive: Path) -> None:
    answer = user.run("doctor", "--offline", "-f", user.write_lock(locked(archive, sha256=None)))
    assert "no sha256" not in answer.stderr


@pytest.mark.parametrize("changes", [{"md5": "0" * 32}, {"sha256": ""}], ids=["another-md5", "no-sha256"])
def test_a_record_that_does_not_settle_it(user, tmp_path: Path, archive: Path, changes: dict[str, str]) -> None:
    write_index(tmp_path / "channel", archive, **changes)
    answer = user.run("create", "-p", user.home / "prefix", "-f", user.write_lock(locked(archive, sha256=None)), code=3)
    assert "tool 1.0: the lock has no sha256 for it, and MD5 proves nothing" in answer.stderr
    assert not (user.home / "prefix/share/tool").exists()


def test_a_wheel_from_git_says_what_is_missing(user, archive: Path) -> None:
    url = f"git+https://host.invalid/team/thing@{'0' * 40}"
    wheel = LockedPackage("pip", "thing", "1.0", "linux-64", url, None)
    answer = user.run("create", "-p", user.home / "prefix", "-f", user.write_lock(locked(archive), wheel), code=3)
    assert f"thing 1.0: the lock has the commit of {url} and no sha256 of the wheel" in answer.stderr
    assert "MD5" not in answer.stderr
