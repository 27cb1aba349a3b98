"""The door for durable writes: copy while hashing, sync, rename, sync the directory.

After a power cut a file written here is either whole or absent, never torn (house rule 10).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

# Large enough that Python's own cost vanishes, small enough that a reader of the log sees progress between chunks.
CHUNK_BYTES = 4 * 1024 * 1024


def sync_directory(directory: Path) -> None:
    """Make the renames inside `directory` survive a power cut.

    Args:
        directory: the directory that holds the renamed entries.

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_hashed(source: int, target: Path) -> tuple[str, int]:
    """Copy an open file into a new, synced file, and hash exactly the bytes that were written.

    Args:
        source: the file descriptor to read from, at the position where the copy starts.
        target: the file to create; it must not exist.

    Returns:
        The sha256 in hexadecimal and the number of bytes.

    Raises:
        OSError: reading or writing failed; `target` may exist in part.
    """
    digest = hashlib.sha256()
    size_bytes = 0
    # 0o666 less the umask, as every other tool does: mkstemp's 0o600 would hide a checkpoint from a server that runs
    # as another user.
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb", buffering=0) as writer:
        while True:
            chunk = os.read(source, CHUNK_BYTES)
            if not chunk:
                break
            digest.update(chunk)
            write_all(writer.fileno(), chunk)
            size_bytes += len(chunk)
        os.fsync(writer.fileno())
    return digest.hexdigest(), size_bytes


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, also where the kernel takes only a part at a time.

    Args:
        descriptor: an open file descriptor.
        content: the bytes to write.

    Raises:
        OSError: the write failed.
    """
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def replace_file(path: Path, content: bytes) -> None:
    """Give `path` this content, all of it or none.

    Args:
        path: the file to create or replace.
        content: its new bytes.

    Raises:
        OSError: nothing was replaced, and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb", buffering=0) as writer:
            write_all(writer.fileno(), content)
            os.fsync(writer.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
