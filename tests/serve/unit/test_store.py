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

from serve.checkpoint.manifest import Manifest
from serve.errors import CheckpointError, CheckpointMovedError
from serve.source.local import LocalSource
from serve.source.observation import Load
from serve.store.checkpoint_store import Store

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.pth"
    path.write_bytes(CONTENT)
    mark(path)
    return path


def candidate(path, **stated):
    (seen,) = LocalSource(path).observe()
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
    assert stored.hash_s > 0
    path.write_bytes(b"overwritten")
    assert stored.path.read_bytes() == CONTENT
    assert store.find(SHA256).path == stored.path
    assert files_of(store) == ["lock", f"proofs/{SHA256}", f"sha256/{SHA256}"]


def test_bytes_that_are_there_are_not_copied_again(tmp_path, path):
    store = Store(tmp_path / "store")
    store.admit(candidate(path, sha256=SHA256))
    path.unlink()
    path.write_bytes(b"other")
    assert store.admit(candidate(path, sha256=SHA256)).copy_s == 0


def test_one_file_is_mapped_by_all_workers_where_no_hash_is_stated(tmp_path, path):
    store, other = Store(tmp_path / "store"), Store(tmp_path / "store")
    first = store.admit(candidate(path)).path.stat()
    again = other.admit(candidate(path))
    assert again.path.stat().st_ino == first.st_ino
    assert again.path.read_bytes() == CONTENT
    assert again.copy_s == 0, "it was copied twice"
    assert files_of(store) == ["copied.json", "lock", f"proofs/{SHA256}", f"sha256/{SHA256}"]


def test_bytes_that_were_there_are_copied_by_one_worker_where_no_hash_is_stated(tmp_path, path):
    store, other = Store(tmp_path / "store"), Store(tmp_path / "store")
    store.admit(candidate(path, sha256=SHA256))
    assert store.admit(candidate(path)).copy_s > 0
    assert other.admit(candidate(path)).copy_s == 0


def test_other_bytes_under_the_same_name_are_copied_where_no_hash_is_stated(tmp_path, path):
    store = Store(tmp_path / "store")
    store.admit(candidate(path))
    other = CONTENT[::-1]
    path.write_bytes(other)
    assert store.admit(candidate(path)).path.read_bytes() == other
    path.write_bytes(CONTENT)
    again = store.admit(candidate(path))
    assert (again.path.read_bytes(), again.sha256) == (CONTENT, SHA256)
    assert again.copy_s > 0


def test_an_entry_that_was_altered_is_replaced_where_no_hash_is_stated(tmp_path, path):
    store = Store(tmp_path / "store")
    entry = store.admit(candidate(path)).path
    entry.chmod(0o644)
    entry.write_bytes(b"altered")
    assert store.admit(candidate(path)).path.read_bytes() == CONTENT


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
    code = "import sys,time;from pathlib import Path;from serve.store.checkpoint_store import Store\n"
    code += "with Store(Path(sys.argv[1])).lock():\n  print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        started = time.monotonic()
        os.kill(holder.pid, signal.SIGKILL)
    assert store.admit(candidate(path)).sha256 == SHA256
    assert time.monotonic() - started < 5
    assert files_of(store) == ["copied.json", "lock", f"proofs/{SHA256}", f"sha256/{SHA256}"]


def test_prune_keeps_what_it_is_told(tmp_path, path):
    store = Store(tmp_path / "store")
    store.admit(candidate(path))
    path.write_bytes(b"other")
    mark(path)
    other = store.admit(candidate(path))
    store.prune(frozenset({other.sha256}), time.time() + 60)
    assert store.find(SHA256) is None
    assert store.find(other.sha256) is not None


def test_a_corrupted_entry_is_found_and_fetched_again(tmp_path, path):
    damaged = []
    store = Store(tmp_path / "store", lambda expected, found: damaged.append((expected, found)))
    stored = store.admit(candidate(path))
    stored.path.chmod(0o644)
    stored.path.write_bytes(b"spoilt")
    assert store.find(SHA256) is None
    assert damaged == [(SHA256, hashlib.sha256(b"spoilt").hexdigest())]
    assert store.admit(candidate(path, sha256=SHA256)).path.read_bytes() == CONTENT


def test_an_entry_without_its_proof_is_proven_once(tmp_path, path):
    store = Store(tmp_path / "store")
    store.admit(candidate(path))
    (store.root / "proofs" / SHA256).unlink()
    assert store.find(SHA256).hash_s > 0
    assert store.find(SHA256).hash_s == 0


def test_prune_spares_what_came_after_the_commit(tmp_path, path):
    store = Store(tmp_path / "store")
    before = time.time() - 1
    store.admit(candidate(path))
    store.prune(frozenset(), before)
    assert store.find(SHA256)


def test_a_copier_killed_at_any_moment_leaves_a_store_that_works(tmp_path):
    """The kills come at moments spread over the whole copy."""
    path = tmp_path / "big.pth"
    path.write_bytes(os.urandom(1024) * 100_000)
    mark(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    store = Store(tmp_path / "store")
    code = """if True:
        import sys; from pathlib import Path
        from serve.source.observation import Load, Manifest; from serve.source.local import Place
        from serve.store.checkpoint_store import Store
        (seen,) = Place(Path(sys.argv[1])).observe()
        print("ready", flush=True)
        Store(Path(sys.argv[2])).admit(Load(seen, Manifest()))
    """
    command = [sys.executable, "-c", code, str(path), str(store.root)]
    for number in range(8):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as copier:
            copier.stdout.readline()
            time.sleep(0.05 * number)
            copier.kill()
        found = store.find(sha256)
        assert found is None or hashlib.sha256(found.path.read_bytes()).hexdigest() == sha256
        if found is not None:
            found.path.unlink()
    assert store.admit(candidate(path)).sha256 == sha256
    assert files_of(store) == ["copied.json", "lock", f"proofs/{sha256}", f"sha256/{sha256}"]
