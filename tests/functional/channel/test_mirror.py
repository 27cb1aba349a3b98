"""A mirror of one lock, in a directory and in a real S3 server, and environments made from it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage, format_lockfile
from tests.functional.prefix.conftest import Channel, User, channel, user
from tests.support.archives import Archive, File, lock_of, locked
from tests.support.wheels import locked_wheel, write_wheel

__all__ = ["channel", "user"]  # fixtures

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Sources:
    """Two channels and a directory of wheels, and the packages that a lock has of them."""

    root: Path
    packages: tuple[LockedPackage, ...]

    def write_lock(self, user: User, *packages: LockedPackage) -> None:
        lock = lock_of(*packages)
        platforms = ("linux-64", "linux-aarch64")
        hashes = dict.fromkeys(platforms, "0" * 64)
        text = format_lockfile(replace(lock, platforms=platforms, content_hash=hashes))
        (user.home / "conda-lock.yml").write_text(text)


@pytest.fixture
def sources(channel: Channel, user: User, tmp_path: Path) -> Sources:
    for each in channel.all:
        target = tmp_path / "first" / "linux-64" / channel.path(each).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(channel.path(each), target)
    first = [locked(path) for path in sorted((tmp_path / "first" / "linux-64").iterdir())]
    data = locked(Archive("data", {"share/d": File(b"d")}, subdir="noarch", noarch="generic").write(tmp_path / "other"))
    arm = locked(Archive("arm", {"share/a": File(b"a")}, subdir="linux-aarch64").write(tmp_path / "other"))
    (tmp_path / "wheels").mkdir()
    wheel = locked_wheel(write_wheel(tmp_path / "wheels", "hello", "1.0", {"hello.py": ""}, {}))
    on_arm = [replace(each, platform="linux-aarch64") for each in (arm, data, wheel)]
    return Sources(tmp_path, (*first, data, wheel, *on_arm))


def mirror(user: User, place: object, *options: object, **env: str) -> Any:
    return json.loads(user.run("channel", "mirror", place, *options, "--json", **env).stdout)


def times(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def mirrors_of(answer: Any) -> dict[str, str]:
    return {"ENVTOOL_MIRRORS": " ".join(f"{each}={url}" for each, url in answer["mirrors"].items())}


def without_sources(user: User, sources: Sources) -> None:
    """From now on the bytes are nowhere but in the mirror."""
    for name in ("first", "other", "wheels"):
        shutil.rmtree(sources.root / name)
    shutil.rmtree(user.home / "envtool" / "cache")


def test_a_mirror_holds_the_lock_and_stands_for_its_channels(user: User, sources: Sources) -> None:
    sources.write_lock(user, *sources.packages)
    place = user.home / "mirror"
    made = mirror(user, place)
    assert made["files"] == 6
    names = {name for name in times(place) if not name.startswith("wheels/")}
    assert names == {
        "mirror.json",
        *(f"{subdir}/repodata.json{end}" for subdir in ("linux-64", "linux-aarch64", "noarch") for end in ("", ".zst")),
        *(f"linux-64/{package.file_name}" for package in sources.packages[:3]),
        "noarch/data-1.0-h1_0.conda",
        "linux-aarch64/arm-1.0-h1_0.conda",
    }
    assert [Path(name).name for name in times(place) if name.startswith("wheels/")] == ["hello-1.0-py3-none-any.whl"]
    assert json.loads(user.run("channel", "check", place, "--json").stdout) == {"archives": 5, "issues": []}
    without_sources(user, sources)
    again = mirror(user, user.home / "again", **mirrors_of(made))
    assert {name: (user.home / "again" / name).read_bytes() for name in times(place)} == {
        name: (place / name).read_bytes() for name in times(place)
    }
    assert again["files"] == 6


def test_only_what_changed_is_touched(user: User, sources: Sources) -> None:
    sources.write_lock(user, *sources.packages)
    place = user.home / "mirror"
    mirror(user, place)
    before = times(place)
    again = mirror(user, place)
    assert (again["moved"], again["removed"]) == ([], [])
    assert times(place) == before
    damaged = place / "noarch" / "data-1.0-h1_0.conda"
    damaged.write_bytes(b"damaged")
    assert mirror(user, place)["moved"] == ["noarch/data-1.0-h1_0.conda"]
    sources.write_lock(user, *sources.packages[1:4])
    smaller = mirror(user, place)
    gone = sources.packages[0].file_name
    assert f"linux-64/{gone}" in smaller["removed"]
    assert not (place / "wheels").exists()
    assert not (place / "linux-aarch64").exists()
    untouched = f"linux-64/{sources.packages[1].file_name}"
    assert times(place)[untouched] == before[untouched]


def test_an_environment_is_made_from_a_mirror(user: User, sources: Sources) -> None:
    sources.write_lock(user, *sources.packages[:4])
    digest = json.loads(user.run("create", "-p", user.home / "here", "--json").stdout)["env_digest"]
    made = mirror(user, user.home / "mirror")
    without_sources(user, sources)
    told = user.run("create", "-p", user.home / "there", "--json", **mirrors_of(made))
    assert json.loads(told.stdout)["env_digest"] == digest


def test_a_place_of_others_and_a_clash_of_names_are_refused(user: User, sources: Sources) -> None:
    place = user.home / "mine"
    place.mkdir()
    (place / "notes").write_text("mine")
    sources.write_lock(user, *sources.packages)
    assert "holds something other than a mirror" in user.run("channel", "mirror", place, code=3).stderr
    assert [path.name for path in place.iterdir()] == ["notes"]
    other = Archive("data", {"share/d": File(b"other")}, subdir="noarch", noarch="generic")
    clash = replace(locked(other.write(sources.root / "clash")), platform="linux-aarch64")
    sources.write_lock(user, *sources.packages[:5], clash)
    assert "cannot hold both" in user.run("channel", "mirror", user.home / "new", code=3).stderr
    assert not (user.home / "new").exists()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """A real S3 server on the loopback, with a bucket."""
    pytest.importorskip("boto3", reason="the extra [s3] is not installed")
    pytest.importorskip("moto", reason="moto needs Python 3.10")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert server.poll() is None
            try:
                request = urllib.request.Request(f"{url}/bucket", method="PUT")
                urllib.request.urlopen(request, timeout=60).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def let_everybody_read(store: str) -> None:
    """What a bucket's policy does elsewhere."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=store, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )
    for entry in client.list_objects_v2(Bucket="bucket")["Contents"]:
        client.put_object_acl(Bucket="bucket", Key=entry["Key"], ACL="public-read")


def test_a_mirror_in_an_object_store(user: User, sources: Sources, store: str) -> None:
    env = {**KEYS, "AWS_ENDPOINT_URL": store}
    sources.write_lock(user, *sources.packages)
    made = mirror(user, "s3://bucket/deep/mirror", **env)
    assert made["url"] == f"{store}/bucket/deep/mirror/"
    assert len(made["moved"]) == 6 + 6 + 1
    assert mirror(user, "s3://bucket/deep/mirror", **env)["moved"] == []
    sources.write_lock(user, *sources.packages[:4])
    digest = json.loads(user.run("create", "-p", user.home / "here", "--json").stdout)["env_digest"]
    assert len(mirror(user, "s3://bucket/deep/mirror", **env)["removed"]) == 4
    without_sources(user, sources)
    let_everybody_read(store)
    told = user.run("create", "-p", user.home / "there", "--json", **mirrors_of(made))
    assert json.loads(told.stdout)["env_digest"] == digest
    with urllib.request.urlopen(f"{made['url']}noarch/repodata.json", timeout=60) as answer:
        assert list(json.load(answer)["packages.conda"]) == ["data-1.0-h1_0.conda"]
    assert "no-such-bucket" in user.run("channel", "mirror", "s3://no-such-bucket/x", code=3, **env).stderr
