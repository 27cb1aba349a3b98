"""A content-addressed, read-only copy of every checkpoint that is served, shared by the workers of one host.

The path that a trainer can write is never mapped: weights that are mapped from a file change when the file is
overwritten, and the worker dies of SIGBUS when it is truncated. So the bytes are copied once, hashed while they are
copied, and mapped from here.

    <store>/lock               held by the one process that copies
    <store>/incoming/          copies that are not proven yet
    <store>/sha256/<digest>    proven, read-only checkpoints
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serve import files
from serve.checkpoint import Load
from serve.errors import CheckpointError, CheckpointMovedError, StoreFullError
from serve.manifest import Manifest
from serve.place import identify

_READ_ONLY = 0o444


@dataclass(frozen=True)
class Stored:
    """A proven checkpoint in the store.

    Args:
        path: the read-only copy.
        sha256: of its bytes.
        size_bytes: its length.
        copy_s: seconds that copying and hashing took here; 0 where the bytes were there already.
    """

    path: Path
    sha256: str
    size_bytes: int
    copy_s: float = 0.0


class Store:
    """The store of one host.

    Args:
        root: its directory, on a local disk; created at the first use.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._proven = root / "sha256"
        self._incoming = root / "incoming"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the host's lock, which the kernel releases when the process dies.

        Raises:
            OSError: the store cannot be written.
        """
        for directory in (self._proven, self._incoming):
            directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def find(self, sha256: str) -> Stored | None:
        """Find a proven checkpoint.

        Args:
            sha256: of its bytes.

        Returns:
            The checkpoint, or `None` when it is not in the store.
        """
        path = self._proven / sha256
        try:
            return Stored(path, sha256, path.stat().st_size)
        except FileNotFoundError:
            return None

    def admit(self, candidate: Load) -> Stored:
        """Copy a checkpoint into the store, unless its bytes are there already.

        Args:
            candidate: what was observed, and what its marker states.

        Returns:
            The proven copy.

        Raises:
            CheckpointError: the bytes are not what the marker states.
            CheckpointMovedError: the checkpoint changed while it was copied, or since it was observed.
            OSError: reading or writing failed; the store is as it was.
        """
        stored = self._find_stated(candidate.manifest)
        if stored is not None:
            return stored
        with self.lock():
            stored = self._find_stated(candidate.manifest)
            return stored if stored is not None else self._copy(candidate)

    def prune(self, keep: frozenset[str]) -> None:
        """Delete what is not needed any more. Workers that still map a deleted file keep its bytes.

        Args:
            keep: the sha256 of every checkpoint that stays.

        Raises:
            OSError: the store cannot be written.
        """
        with self.lock():
            for path in list(self._proven.iterdir()):
                if path.name not in keep:
                    path.unlink()

    def _find_stated(self, manifest: Manifest) -> Stored | None:
        return None if manifest.sha256 is None else self.find(manifest.sha256)

    def _copy(self, candidate: Load) -> Stored:
        started_s = time.monotonic()
        for leftover in list(self._incoming.iterdir()):
            leftover.unlink()  # whoever wrote it is dead: only the holder of the lock writes here
        part = self._incoming / f"{os.getpid()}.part"
        try:
            sha256, size_bytes = self._copy_observed(candidate, part)
            _require_stated(candidate.manifest, sha256)
            part.chmod(_READ_ONLY)
            part.replace(self._proven / sha256)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        files.sync_directory(self._proven)
        return Stored(self._proven / sha256, sha256, size_bytes, time.monotonic() - started_s)

    def _copy_observed(self, candidate: Load, part: Path) -> tuple[str, int]:
        seen = candidate.observation
        source = os.open(seen.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            before = identify(source)
            if before != seen.checkpoint:
                raise CheckpointMovedError(f"{seen.path.name}: it changed since it was observed")
            self._require_space(before.size_bytes)
            copied = files.copy_hashed(source, part)
            if identify(source) != before:
                raise CheckpointMovedError(f"{seen.path.name}: it changed while it was copied")
            return copied
        finally:
            os.close(source)

    def _require_space(self, size_bytes: int) -> None:
        disk = os.statvfs(self.root)
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < size_bytes:
            raise StoreFullError(
                f"{self.root}: expected {size_bytes} free bytes, found {free_bytes}",
                hint="free some space there, or point SERVE_STORE to another disk",
            )


def _require_stated(manifest: Manifest, sha256: str) -> None:
    if manifest.sha256 is not None and manifest.sha256 != sha256:
        raise CheckpointError("hash", f"the sha256: expected {manifest.sha256}, found {sha256}")
