"""The cache: tampered, read-only, full, and shared by processes and by the users of a group."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from envtool.errors import CacheError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.downloader import fetch
from envtool.fetch.failover import Timeouts
from tests.functional.fetch.conftest import CONTENT, SHA256, Tally
from tests.support import mirror_answers as say
from tests.support.mirror_simulator import MirrorSimulator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as other users")
FETCH = """
import encodings.idna, os, sys
from pathlib import Path
from envtool.errors import EnvtoolError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.downloader import fetch
from envtool.fetch import client as network
import envtool.fetch.downloader, concurrent.futures.thread
if len(sys.argv) > 4:
    # All is imported before, for the interpreter may be where only root can read.
    try:
        with network.get("http://127.0.0.1:1/"):
            pass
    except EnvtoolError:
        pass
    user, group, umask = map(int, sys.argv[4:])
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    os.umask(umask)
class Tally:
    def advance(self, amount): pass
    def expect(self, total): pass
wanted = Wanted("a.conda", sys.argv[2], (sys.argv[3],))
try:
    print(fetch([wanted], Cache(Path(sys.argv[1])), Tally())[wanted])
except EnvtoolError as error:
    sys.exit(error.message)
"""


def test_a_tampered_file_is_noticed_and_fetched_again(mirror: MirrorSimulator, cache: Cache, tally: Tally) -> None:
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    path = fetch([wanted], cache, tally)[wanted]
    path.write_bytes(b"x" + CONTENT[1:])
    assert cache.find(wanted) is None
    assert fetch([wanted], cache, Tally())[wanted].read_bytes() == CONTENT
    assert len(mirror.requests) == 2


def test_a_file_that_is_there_is_not_asked_for(mirror: MirrorSimulator, cache: Cache, tally: Tally) -> None:
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    fetch([wanted], cache, tally)
    again = Tally()
    fetch([wanted, wanted], cache, again)
    assert len(mirror.requests) == 1
    assert (again.done, again.total) == (len(CONTENT), len(CONTENT))


def test_a_file_url_is_proven_and_kept_like_any_other(cache: Cache, tally: Tally, tmp_path: Path) -> None:
    source = tmp_path / "a.conda"
    source.write_bytes(CONTENT)
    wanted = Wanted("a.conda", SHA256, (source.as_uri(),))
    fetch([wanted], cache, tally)
    source.write_bytes(b"x" + CONTENT[1:])
    shutil.rmtree(cache.root)
    with pytest.raises(Exception, match=f"expected sha256:{SHA256}"):
        fetch([wanted], cache, tally)


def test_offline_lists_everything_that_is_missing(mirror: MirrorSimulator, cache: Cache, tally: Tally) -> None:
    there = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    path = fetch([there], cache, tally)[there]
    gone = [Wanted(f"{name}.conda", name * 64, (mirror.url + "x",)) for name in "cb"]
    assert fetch([there], cache, tally, is_offline=True) == {there: path}
    with pytest.raises(CacheError) as caught:
        fetch([there, *gone], cache, tally, is_offline=True)
    assert caught.value.message.splitlines()[1:] == ["  b.conda", "  c.conda"]
    assert "2 of 3 files" in caught.value.message
    assert len(mirror.requests) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "../../etc/passwd", "a/b"])
def test_a_name_cannot_lead_out_of_the_cache(name: str) -> None:
    with pytest.raises(CacheError, match="is not the name of a file"):
        Wanted(name, SHA256, ())


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("answer", [say.good(), say.chunked()], ids=["size announced", "no size announced"])
def test_a_full_disk_names_the_file_and_the_place_and_goes_on_when_there_is_room(
    answer: say.Answer, mirror: MirrorSimulator, tally: Tally, tmpfs: Path
) -> None:
    mirror.answer("*", answer)
    cache = Cache(tmpfs)
    filler = tmpfs / "filler"
    filler.write_bytes(b"x" * 900_000)
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    with pytest.raises(CacheError) as caught:
        fetch([wanted], cache, tally)
    assert f"no space for a.conda in the cache {tmpfs}" in caught.value.message
    assert "bytes are free" in caught.value.message
    if answer == say.good():
        assert "300,000 bytes more are needed" in caught.value.message
    filler.unlink()
    assert fetch([wanted], cache, tally)[wanted].read_bytes() == CONTENT


@pytest.fixture
def commons() -> Iterator[Path]:
    """A directory that other users reach, which those that pytest makes are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@needs_root
def test_a_cache_that_cannot_be_written_serves_what_it_has_and_says_what_is_wrong(
    mirror: MirrorSimulator, tally: Tally, commons: Path
) -> None:
    cache = Cache(commons / "cache")
    there = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    fetch([there], cache, tally)
    other = hashlib.sha256(b"b").hexdigest()
    assert run_as(65534, 65534, cache.root, SHA256, "http://127.0.0.1:1/").returncode == 0
    done = run_as(65534, 65534, cache.root, other, mirror.put("b.conda", b"b"))
    assert done.returncode == 1
    assert f"a.conda cannot be written to the cache {cache.root}: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


@needs_root
def test_the_members_of_a_group_share_a_cache_whatever_their_umask(mirror: MirrorSimulator, commons: Path) -> None:
    root = commons / "shared"
    root.mkdir()
    os.chown(root, 0, 4321)
    root.chmod(0o2775)
    mirror.answer("a.conda", say.truncated(100_000), say.status(404))
    url = mirror.url + "a.conda"
    assert run_as(1001, 4321, root, SHA256, url, umask=0o077).returncode == 1
    # The other goes on with what the first has left.
    assert run_as(1002, 4321, root, SHA256, url, umask=0o077).returncode == 0
    assert [request.range for request in mirror.requests] == [None, "bytes=100000-", "bytes=100000-"]
    assert run_as(1001, 4321, root, SHA256, "http://127.0.0.1:1/").returncode == 0
    for path in root.rglob("*"):
        status = path.stat()
        assert status.st_gid == 4321
        assert status.st_mode & stat.S_IWGRP, path
        assert not status.st_mode & stat.S_IWOTH, path


@needs_root
def test_a_partial_file_of_a_user_who_shares_nothing_is_worked_around(mirror: MirrorSimulator, commons: Path) -> None:
    root = commons / "shared"
    partial = root / "partial" / SHA256
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x")
    partial.chmod(0o600)
    for each in (root, partial.parent):
        each.chmod(0o777)
    done = run_as(1001, 4321, root, SHA256, mirror.url + "a.conda")
    assert done.returncode == 0, done.stderr


def test_the_umask_has_its_way_in_a_cache_of_ones_own(mirror: MirrorSimulator, cache: Cache, tally: Tally) -> None:
    old = os.umask(0o077)
    try:
        wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
        path = fetch([wanted], cache, tally)[wanted]
    finally:
        os.umask(old)
    assert all(stat.S_IMODE(each.stat().st_mode) & 0o077 == 0 for each in (path, path.parent, cache.root))


def test_two_processes_fetch_the_same_and_only_one_asks(mirror: MirrorSimulator, tmp_path: Path) -> None:
    mirror.answer("*", then=say.trickle(600_000))
    argv = [sys.executable, "-c", FETCH, str(tmp_path / "cache"), SHA256, mirror.url + "a.conda"]
    processes = [subprocess.Popen(argv) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    assert len(mirror.requests) == 1


def test_a_holder_that_stands_still_is_not_waited_for(
    mirror: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    partial = cache.partial(wanted)
    partial.parent.mkdir(parents=True)
    with Path(f"{partial}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began_s = time.monotonic()
        assert fetch([wanted], cache, tally, patience=patience)[wanted].read_bytes() == CONTENT
        assert patience.read_timeout_s < time.monotonic() - began_s < 10


def test_a_failure_does_not_wait_for_the_slow_ones(mirror: MirrorSimulator, cache: Cache, tally: Tally) -> None:
    mirror.put("slow.conda", b"never comes")
    mirror.answer("slow.conda", then=say.silent())
    slow = Wanted("slow.conda", "0" * 64, (mirror.url + "slow.conda",))
    missing = Wanted("missing.conda", "1" * 64, (mirror.url + "missing.conda",))
    began_s = time.monotonic()
    with pytest.raises(Exception, match=r"missing\.conda could not be downloaded"):
        fetch([slow, missing], cache, tally, patience=Timeouts(read_timeout_s=20))
    assert time.monotonic() - began_s < 10


def run_as(
    user: int, group: int, root: Path, sha256: str, url: str, umask: int = 0o022
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-B", "-c", FETCH, str(root), sha256, url, str(user), str(group), str(umask)]
    environ = {**os.environ, "HOME": "/nonexistent", "ENVTOOL_ATTEMPTS": "2", "ENVTOOL_BACKOFF_S": "0"}
    return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
