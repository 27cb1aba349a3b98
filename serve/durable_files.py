"""The door for durable writes: copy while hashing, sync, rename, sync the directory.

After a power cut a file written here is either whole or absent, never torn, unless its writer states that
it need not last: then its reader takes a torn one for an absent one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Large enough that Python's own cost vanishes, small enough that a reader of the log sees progress between chunks.
CHUNK_BYTES = 4 * 1024 * 1024
# Source: linux/fs.h, _IOW(0x94, 9, int), on the architectures that torch is built for.
_FICLONE = 0x40049409
# By how much a file is made later than another one; some file systems tell times in every second second only.
_STEPS_NS = (1_000_000, 2_000_000_000)


def sync_directory(directory: Path) -> None:
    """Make the renames inside `directory` survive a power cut.

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Copied:
    """What was copied.

    Args:
        sha256: of exactly the bytes that were written, in hexadecimal.
        copy_s: seconds of reading and writing.
    """

    sha256: str
    size_bytes: int
    copy_s: float
    hash_s: float


def copy_hashed(source: int, target: Path) -> Copied:
    """Copy an open file into a new, synced file, and hash exactly the bytes that were written.

    Args:
        source: the file descriptor to read from, at the position where the copy starts.
        target: the file to create; it must not exist.

    Raises:
        OSError: reading or writing failed; `target` may exist in part.
    """
    return write_hashed(iter(lambda: os.read(source, CHUNK_BYTES), b""), target)


def write_hashed(chunks: Iterator[bytes], target: Path) -> Copied:
    """Write a new, synced file, and hash exactly the bytes that were written.

    Args:
        target: the file to create; it must not exist.

    Raises:
        OSError: writing failed; `target` may exist in part.
    """
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
    """Copy an open file by sharing its blocks, where the file system can, and hash the copy.

    The clone is a snapshot: what a trainer writes later goes into other blocks (ioctl_ficlone(2)).

    Args:
        target: the file to create; it must not exist.

    Returns:
        What was copied, or `None` when the file system cannot share blocks; `target` does not exist then.

    Raises:
        OSError: the target cannot be created or read.
    """
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
    """Return the sha256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _hash_open(descriptor)
    finally:
        os.close(descriptor)


def _hash_open(descriptor: int) -> str:
    digest = hashlib.sha256()
    while True:
        chunk = os.read(descriptor, CHUNK_BYTES)
        if not chunk:
            return digest.hexdigest()
        digest.update(chunk)


def _create(target: Path) -> int:
    # 0o666 less the umask, as every other tool does: mkstemp's 0o600 would hide a checkpoint from a server that runs
    # as another user.
    return os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, also where the kernel takes only a part at a time.

    Raises:
        OSError: the write failed.
    """
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def replace_file(path: Path, content: bytes, *, is_lasting: bool = True, after_ns: int = 0) -> None:
    """Give `path` this content, all of it or none.

    Args:
        path: the file to create or replace.
        is_lasting: whether it has to survive a power cut. Other processes see all of it or none in any case.
        after_ns: a time, in nanoseconds, that the file's own must be later than, whatever this machine's clock states.

    Raises:
        OSError: nothing was replaced, and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(_create_anew(temporary), "wb", buffering=0) as writer:
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


def _create_anew(temporary: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(temporary, flags, 0o666)
    except FileExistsError:  # left by a process of this number that was killed
        temporary.unlink(missing_ok=True)
        return os.open(temporary, flags, 0o666)
