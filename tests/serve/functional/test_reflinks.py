"""On a file system that can share blocks the store's copy costs neither space nor reading, and is still its own."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from serving import Load, assert_answers
from trainer import ROW, sha256_of

from serve.checkpoint.manifest import Manifest
from serve.source.local import LocalSource
from serve.source.observation import Load as Candidate
from serve.store.checkpoint_store import Store
from tests.support import debian

SIZE_BYTES = 64 * 1024 * 1024


@pytest.fixture
def btrfs(tmp_path):
    """A btrfs of its own, in a file."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own needs root")
    program, environ = shutil.which("mkfs.btrfs"), dict(os.environ)
    if program is None:
        unpacked = debian.unpack(tmp_path / "btrfs-progs", "btrfs-progs", "liblzo2-2")
        program = str(unpacked / "sbin" / "mkfs.btrfs")
        environ["LD_LIBRARY_PATH"] = debian.library_directories(unpacked)
    image, point = tmp_path / "image", tmp_path / "btrfs"
    point.mkdir()
    with image.open("wb") as writer:
        writer.truncate(400 * 1024 * 1024)
    try:
        subprocess.run([program, "-q", str(image)], env=environ, check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no btrfs can be made or mounted here: {getattr(error, 'stderr', None) or error}")
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


def used_bytes(point):
    os.sync()
    seen = os.statvfs(point)
    return (seen.f_blocks - seen.f_bfree) * seen.f_frsize


def test_the_blocks_are_shared_and_the_copy_is_its_own(btrfs):
    path = btrfs / "m.safetensors"
    path.write_bytes(os.urandom(SIZE_BYTES))
    path.with_name(path.name + ".done").touch()
    sha256, before_bytes = sha256_of(path), used_bytes(btrfs)
    (seen,) = LocalSource(path).observe()
    stored = Store(btrfs / "store").admit(Candidate(seen, Manifest(sha256=sha256)))
    assert used_bytes(btrfs) - before_bytes < SIZE_BYTES / 4
    with path.open("r+b") as writer:
        writer.write(b"overwritten in place")
    assert sha256_of(stored.path) == sha256
    assert sha256_of(path) != sha256


@pytest.mark.needs_torch
def test_a_swap_by_clones_under_requests(btrfs, start_server, trainer):
    directory = btrfs / "checkpoints"
    directory.mkdir()
    trainer.directory = directory
    trainer.publish(1)
    server = start_server(checkpoints=directory, store=btrfs / "store")
    server.wait_live(1)
    with Load(server, ROW, threads=2) as load:
        for number in (2, 3):
            trainer.publish(number)
            server.wait_live(number)
        for path in directory.glob("*.safetensors"):
            path.write_bytes(b"overwritten in place")
        load.wait_for_more(50)
    assert_answers(load, trainer)
