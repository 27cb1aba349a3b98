from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from trainer import mark

from serve.checkpoint import Load
from serve.errors import CheckpointError, CheckpointMovedError
from serve.manifest import Manifest
from serve.place import Place
from serve.store import Store

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.pth"
    path.write_bytes(CONTENT)
    mark(path)
    return path


def candidate(path, **stated):
    (seen,) = Place(path).observe()
    return Load(seen, Manifest(**stated))


def files_of(store):
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_the_copy_is_proven_and_read_only(tmp_path, path):
    store = Store(tmp_path / "store")
    stored = store.admit(candidate(path, sha256=SHA256))
    assert (stored.sha256, stored.size_bytes) == (SHA256, len(CONTENT))
    assert stored.path.read_bytes() == CONTENT
    assert stat.S_IMODE(stored.path.stat().st_mode) == 0o444
    assert stored.copy_s > 0
    path.write_bytes(b"overwritten")
    assert stored.path.read_bytes() == CONTENT
    assert store.find(SHA256).path == stored.path
    assert files_of(store) == ["lock", f"sha256/{SHA256}"]


def test_bytes_that_are_there_are_not_copied_again(tmp_path, path):
    store = Store(tmp_path / "store")
    store.admit(candidate(path, sha256=SHA256))
    path.unlink()
    path.write_bytes(b"other")
    assert store.admit(candidate(path, sha256=SHA256)).copy_s == 0


def test_another_hash_is_refused_and_leaves_nothing(tmp_path, path):
    store = Store(tmp_path / "store")
    with pytest.raises(CheckpointError, match=f"expected {'0' * 64}, found {SHA256}"):
        store.admit(candidate(path, sha256="0" * 64))
    assert files_of(store) == ["lock"]


def test_a_checkpoint_that_moved_since_it_was_seen(tmp_path, path):
    store = Store(tmp_path / "store")
    seen = candidate(path)
    path.write_bytes(CONTENT + b"more")
    with pytest.raises(CheckpointMovedError):
        store.admit(seen)
    assert files_of(store) == ["lock"]


def test_a_checkpoint_that_grows_while_it_is_copied(tmp_path):
    path = tmp_path / "big.pth"
    path.write_bytes(b"x" * 200_000_000)
    mark(path)
    store = Store(tmp_path / "store")
    seen = candidate(path)
    script = "import os,sys,time\nfor _ in range(400):\n  open(sys.argv[1],'ab').write(b'y'); time.sleep(.005)"
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as writer:
        with pytest.raises(CheckpointMovedError):
            store.admit(seen)
        writer.kill()
    assert files_of(store) == ["lock"]


def test_a_copier_that_is_killed_blocks_nobody_and_leaves_nothing(tmp_path, path):
    store = Store(tmp_path / "store")
    with store.lock():
        (store.root / "incoming" / "777.part").write_bytes(b"half")
    code = "import sys,time;from pathlib import Path;from serve.store import Store\n"
    code += "with Store(Path(sys.argv[1])).lock():\n  print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        started = time.monotonic()
        os.kill(holder.pid, signal.SIGKILL)
    assert store.admit(candidate(path)).sha256 == SHA256
    assert time.monotonic() - started < 5
    assert files_of(store) == ["lock", f"sha256/{SHA256}"]


def test_prune_keeps_what_it_is_told(tmp_path, path):
    store = Store(tmp_path / "store")
    store.admit(candidate(path))
    path.write_bytes(b"other")
    mark(path)
    other = store.admit(candidate(path))
    store.prune(frozenset({other.sha256}))
    assert store.find(SHA256) is None
    assert store.find(other.sha256) is not None
