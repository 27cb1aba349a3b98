"""Files that processes share: durable writes, locks that the kernel releases when their holder dies, and small records.

After a power cut a file written here is either whole or absent, never torn, unless its writer states that it need not
last: then its reader takes a torn one for an absent one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Callable, Generic, TypeVar

CHUNK_BYTES = 4 * 1024 * 1024  # Python's own cost vanishes, and a reader of the log sees progress between chunks
_FICLONE = 0x40049409  # Source: linux/fs.h, _IOW(0x94, 9, int), on the architectures that torch is built for
_STEPS_NS = (1_000_000, 2_000_000_000)  # how much later than another one; some file systems count in two seconds


def sync_directory(directory: Path) -> None:
    """Make the renames inside `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Copied:
    """What was copied: `sha256` is of exactly the bytes that were written, `copy_s` of reading and writing."""

    sha256: str
    size_bytes: int
    copy_s: float
    hash_s: float


def copy_hashed(source: int, target: Path) -> Copied:
    """Copy an open file, from its position on, as `write_hashed` does."""
    return write_hashed(iter(lambda: os.read(source, CHUNK_BYTES), b""), target)


def write_hashed(chunks: Iterator[bytes], target: Path) -> Copied:
    """Write a new, synced file, and hash what was written; after an `OSError` `target` may exist in part."""
    digest = hashlib.sha256()
    size_bytes, hash_s, started_s = 0, 0.0, time.monotonic()
    with os.fdopen(_create(target), "wb", buffering=0) as writer:
        for chunk in chunks:
            hashing_s = time.monotonic()
            digest.update(chunk)
            hash_s += time.monotonic() - hashing_s
            write_all(writer.fileno(), chunk)
            size_bytes += len(chunk)
        os.fsync(writer.fileno())
    return Copied(digest.hexdigest(), size_bytes, time.monotonic() - started_s - hash_s, hash_s)


def clone_hashed(source: int, target: Path) -> Copied | None:
    """Copy an open file by sharing its blocks, where the file system can, and hash the copy; else return `None`. The
    clone is a snapshot: what a trainer writes later goes into other blocks (ioctl_ficlone(2)). `target` must not exist,
    and does not where nothing was copied."""
    started_s = time.monotonic()
    with os.fdopen(_create(target), "r+b", buffering=0) as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, source)
        except OSError:  # EOPNOTSUPP, EXDEV, EINVAL and others, according to the file system
            target.unlink()
            return None
        os.fsync(writer.fileno())
        hashing_s = time.monotonic()
        sha256 = _hash_open(writer.fileno())
        size_bytes = os.fstat(writer.fileno()).st_size
    return Copied(sha256, size_bytes, hashing_s - started_s, time.monotonic() - hashing_s)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb", buffering=0) as reader:
        return _hash_open(reader.fileno())


def _hash_open(descriptor: int) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(descriptor, CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _create(target: Path) -> int:
    # 0o666 less the umask, as every other tool does: mkstemp's 0o600 would hide a checkpoint from a server that runs
    # as another user.
    return os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, also where the kernel takes only a part at a time."""
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def temporary_beside(path: Path) -> Path:
    """Return what a file is called until it is whole; the longest names that file systems take leave no room for it."""
    return path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:200])}.{os.getpid()}.tmp")


def replace_file(path: Path, content: bytes, *, is_lasting: bool = True, after_ns: int = 0) -> None:
    """Give `path` this content, all of it or none; after an `OSError` nothing was replaced. `is_lasting`: survives a
    power cut. `after_ns`: the file's time must be later, whatever this machine's clock states."""
    if path.is_char_device() or path.is_fifo():  # /dev/null, a pipe: nobody means to put a file in their place
        path.write_bytes(content)
        return
    temporary = temporary_beside(path)
    try:
        temporary.unlink(missing_ok=True)  # left by a process of this number that was killed
        with os.fdopen(_create(temporary), "wb", buffering=0) as writer:
            write_all(writer.fileno(), content)
            for step_ns in _STEPS_NS:
                if os.fstat(writer.fileno()).st_mtime_ns <= after_ns:
                    os.utime(writer.fileno(), ns=(after_ns + step_ns, after_ns + step_ns))
            if is_lasting:
                os.fsync(writer.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if is_lasting:
        sync_directory(path.parent)


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock that a file stands for, however long that takes; it and its directory are made when absent."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def claim(path: Path) -> int | None:
    """Take a lock until the descriptor is closed that is returned; `None` when another process has it."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_held(path: Path) -> bool:
    """Whether some process holds a lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who ask see only the holder
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


R = TypeVar("R")


def from_known(kind: type[R], stated: Mapping[str, Any]) -> R:
    """Make a dataclass of what was read: keys of another version are passed over, a missing one is a `TypeError`."""
    return kind(**{one.name: stated[one.name] for one in fields(kind) if one.name in stated})  # type: ignore[arg-type]


class Records(Generic[R]):
    """The records of one file, by a key of theirs; its lock lies beside it, with the suffix `.lock`."""

    def __init__(self, path: Path, kind: type[R], key_of: Callable[[R], str]) -> None:
        self._path, self._kind, self._key_of = path, kind, key_of
        self._records: Mapping[str, R] = {}
        self._state: tuple[int, int, int] | None = None

    def read(self) -> Mapping[str, R]:
        """Return the records, the oldest first; those that are known where the file cannot be read."""
        try:
            state = self._look()
            if state != self._state:
                records = (from_known(self._kind, stated) for stated in json.loads(self._path.read_bytes()))
                self._records = {self._key_of(record): record for record in records}
                self._state = state
        except (OSError, ValueError, TypeError, AttributeError):
            return self._records  # a damaged file must not stop a reload; it is written anew with the next change
        return self._records

    def change(self, edit: Callable[[Mapping[str, R]], Mapping[str, R]]) -> None:
        """Make new records of the present ones; `edit` is called once more where the disk takes nothing."""
        try:
            with hold(self._path.with_suffix(".lock")):
                self._records = edit(self.read())
                with contextlib.suppress(OSError):
                    self._write()
        except OSError:  # not even the lock could be had
            self._records = edit(self._records)

    def _write(self) -> None:
        content = json.dumps([asdict(record) for record in self._records.values()], indent=1)  # type: ignore[call-overload]
        replace_file(self._path, content.encode() + b"\n")
        self._state = self._look()

    def _look(self) -> tuple[int, int, int]:
        seen = self._path.stat()
        return seen.st_ino, seen.st_size, seen.st_mtime_ns
