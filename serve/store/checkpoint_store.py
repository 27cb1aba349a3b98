"""A content-addressed, read-only copy of every checkpoint that is served, shared by the workers of one host.

The path that a trainer can write is never mapped: weights that are mapped from a file change when the file is
overwritten, and the worker dies of SIGBUS when it is truncated. So the bytes are copied once, hashed as they were
copied, and mapped from here.

    <store>/lock               held by the one process that copies
    <store>/incoming/          copies that are not proven yet
    <store>/sha256/<digest>    proven, read-only checkpoints
    <store>/proofs/<digest>    when, and in which state of the file, it was proven
    <store>/copied.json        what was copied last, and what its bytes were, for markers that do not state it
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Callable

from serve import durable_files
from serve.checkpoint import sharded
from serve.checkpoint.manifest import Stored
from serve.errors import CheckpointError, CheckpointMovedError, StoreFullError
from serve.source.local import identify
from serve.source.observation import Load

_READ_ONLY = 0o444
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FRESH_S = 10.0  # what was found or admitted so lately may be about to be proposed by another worker


class Store:
    """The store of one host, on a local disk; `report_damage` is called for an entry deleted for its content."""

    def __init__(self, root: Path, report_damage: Callable[[str, str], None] = lambda expected, found: None) -> None:
        self.root = root
        self.proven, self.incoming, self._proofs = root / "sha256", root / "incoming", root / "proofs"
        self._copied = root / "copied.json"
        self._report_damage = report_damage

    def lock(self) -> AbstractContextManager[None]:
        """Hold the host's lock, which the kernel releases when the process dies."""
        for directory in (self.proven, self.incoming, self._proofs):
            if not directory.is_dir():
                directory.mkdir(parents=True, exist_ok=True)
        return durable_files.hold(self.root / "lock")

    def has(self, sha256: str) -> bool:
        """Whether there is an entry, proven in this boot or not."""
        return (self.proven / sha256).exists()

    def find(self, sha256: str) -> Stored | None:
        """Find a checkpoint, proven anew in each boot and after a change; one that is another is deleted."""
        stored = self._find_proven(sha256)
        if stored is not None or not self.has(sha256):
            return stored
        try:
            return self._prove(self.proven / sha256)
        except FileNotFoundError:  # pruned meanwhile
            return None

    def admit(self, candidate: Load, needed: Callable[[], frozenset[str]] | None = None) -> Stored:
        """Copy a checkpoint into the store, unless it has its bytes; on a full disk all go that are not `needed`.
        Raises `CheckpointError` for other bytes than stated, `CheckpointMovedError` for a change meanwhile,
        `OSError`."""
        stated = candidate.manifest.sha256
        stored = None if stated is None else self.find(stated)
        if stored is not None:
            return stored
        with self.lock():
            known = stated or self._recall(candidate)
            stored = None if known is None else self._find_proven(known)
            return stored or self._copy_or_make_room(candidate, needed)

    def adopt(self, path: Path) -> None:
        """Take over a file of another store, by a link or a copy; `find` proves it. Raises `OSError`."""
        with self.lock():
            target = self.proven / path.name
            if target.exists() or not path.exists():
                return
            try:
                os.link(path, target)
            except OSError:
                part = self.incoming / f"{os.getpid()}.part"
                with path.open("rb") as source:
                    durable_files.copy_hashed(source.fileno(), part)
                part.chmod(_READ_ONLY)
                part.replace(target)

    def prune(self, keep: frozenset[str], before_s: float) -> None:
        """Delete what is not kept and was not admitted or found since `before_s`, and what a killed copier left.
        Workers that still map a deleted file keep its bytes. While somebody copies nothing is deleted."""
        if not self._find_superfluous(keep, before_s) and not any(self._parts()):
            return  # another worker was quicker; asked again under the lock
        descriptor = durable_files.claim(self.root / "lock")
        if descriptor is not None:
            try:
                self._sweep(keep, before_s)
            finally:
                os.close(descriptor)

    def _copy_or_make_room(self, candidate: Load, needed: Callable[[], frozenset[str]] | None) -> Stored:
        try:
            return self._copy(candidate)
        except (StoreFullError, OSError) as error:
            is_full = isinstance(error, StoreFullError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not is_full or needed is None or not self._sweep(needed(), time.time() - _FRESH_S):
                raise
        return self._copy(candidate)

    def _find_proven(self, sha256: str) -> Stored | None:
        path = self.proven / sha256
        try:
            seen = path.stat()
        except FileNotFoundError:
            return None
        if not self._is_proven(sha256, seen):
            return None
        with contextlib.suppress(OSError):  # another user's file: it may then be pruned, and is fetched again
            path.chmod(_READ_ONLY)  # sets nothing but the ctime, by which prune sees that it is wanted
        return Stored(path, sha256, seen.st_size)

    def _recall(self, candidate: Load) -> str | None:
        """The sha256 of the same observation, where another worker has just copied it."""
        try:
            fingerprint, sha256 = json.loads(self._copied.read_bytes())
        except (OSError, ValueError, TypeError):
            return None
        return str(sha256) if fingerprint == candidate.observation.fingerprint else None

    def _remember(self, candidate: Load, sha256: str) -> None:
        if candidate.manifest.sha256 is not None:
            return
        with contextlib.suppress(OSError):  # without it the next worker copies once more
            content = json.dumps([candidate.observation.fingerprint, sha256]).encode()
            durable_files.replace_file(self._copied, content, is_lasting=False)

    def _copy(self, candidate: Load) -> Stored:
        self._drop_parts()
        part = self.incoming / f"{os.getpid()}.part"
        try:
            copied = self._copy_observed(candidate, part)
            if candidate.manifest.sha256 not in (None, copied.sha256):
                expected = f"the sha256: expected {candidate.manifest.sha256}, found {copied.sha256}"
                raise CheckpointError("hash", expected)
            there = self._find_proven(copied.sha256)
            if there is not None:
                part.unlink()  # bytes that were there: one file is mapped by all workers
                self._remember(candidate, copied.sha256)
                return replace(there, copy_s=copied.copy_s, hash_s=copied.hash_s)
            part.chmod(_READ_ONLY)
            part.replace(self.proven / copied.sha256)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        durable_files.sync_directory(self.proven)
        path = self.proven / copied.sha256
        self._note_proof(path)
        self._remember(candidate, copied.sha256)
        return Stored(path, copied.sha256, copied.size_bytes, copied.copy_s, copied.hash_s)

    def _copy_observed(self, candidate: Load, part: Path) -> durable_files.Copied:
        seen = candidate.observation
        if seen.copy is not None:
            self._require_space(seen.checkpoint.size_bytes if seen.checkpoint is not None else 0)
            return seen.copy(part)
        source = os.open(seen.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            before = identify(source, seen.path)
            if before is None or before != seen.checkpoint:
                raise CheckpointMovedError(f"{seen.path.name}: it changed since it was observed")
            is_index = sharded.is_index(seen.path)
            copied = None if is_index else durable_files.clone_hashed(source, part)
            if copied is None:
                self._require_space(before.size_bytes)
                copied = sharded.join_hashed(seen.path, part) if is_index else durable_files.copy_hashed(source, part)
            if identify(source, seen.path) != before:
                raise CheckpointMovedError(f"{seen.path.name}: it changed while it was copied")
            return copied
        finally:
            os.close(source)

    def _require_space(self, size_bytes: int) -> None:
        if (free_bytes := self.free_bytes()) < size_bytes:
            hint = "free some space, lower keep, or point SERVE_STORE to another disk; see: python -m serve store"
            raise StoreFullError(f"{self.root}: expected {size_bytes} free bytes, found {free_bytes}", hint)

    def _prove(self, path: Path) -> Stored | None:
        with self.lock():
            seen = path.stat()
            if self._is_proven(path.name, seen):  # by another worker, while this one waited
                return Stored(path, path.name, seen.st_size)
            started_s = time.monotonic()
            found = durable_files.hash_file(path)
            if found != path.name:
                path.unlink()
                self._report_damage(path.name, found)
                return None
            self._note_proof(path)
            return Stored(path, path.name, seen.st_size, hash_s=time.monotonic() - started_s)

    def drop(self, sha256: str) -> None:
        """Delete what is not needed any more, be it new or not."""
        (self.proven / sha256).unlink(missing_ok=True)
        (self._proofs / sha256).unlink(missing_ok=True)

    def _is_proven(self, sha256: str, seen: os.stat_result) -> bool:
        """Whether a checkpoint was hashed since the machine started, and is as it was then."""
        try:
            proof: object = json.loads((self._proofs / sha256).read_bytes())
        except (OSError, ValueError):
            return False
        return proof == _describe(seen)

    def _note_proof(self, path: Path) -> None:
        """Note that a checkpoint was just hashed, and is what its name states."""
        with contextlib.suppress(OSError):  # without it the checkpoint is only hashed again
            content = json.dumps(_describe(path.stat())).encode()  # good for this boot only, not for a power cut
            durable_files.replace_file(self._proofs / path.name, content, is_lasting=False)

    def entries(self) -> dict[str, int]:
        """Return sizes in bytes: of each checkpoint by its sha256, of each unfinished copy by its name."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for path in [*self.proven.iterdir(), *self._parts()]:
                with contextlib.suppress(FileNotFoundError):
                    found[path.name] = path.stat().st_size
        return found

    def free_bytes(self) -> int:
        """Return how much room there is on its disk."""
        disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize

    def _parts(self) -> list[Path]:
        return list(self.incoming.iterdir()) if self.incoming.is_dir() else []

    def _drop_parts(self) -> None:
        """Delete them; the caller holds the store's lock, so whoever wrote them is dead."""
        for leftover in self._parts():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _sweep(self, keep: frozenset[str], before_s: float) -> bool:
        """Delete what `_find_superfluous` names, holding the store's lock, and return whether there was any."""
        superfluous = self._find_superfluous(keep, before_s)
        for path in superfluous:
            self.drop(path.name)
        self._drop_parts()
        return bool(superfluous)

    def _find_superfluous(self, keep: frozenset[str], before_s: float) -> list[Path]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.proven.iterdir():
                with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                    if path.name not in keep and path.stat().st_ctime < before_s:
                        found.append(path)
        return found


def _describe(seen: os.stat_result) -> list[object]:
    # Not the ctime: it changes with each use. Who sets back an mtime on purpose can forge a proof as well.
    return [_read_boot_id(), seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns]


@functools.cache
def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
