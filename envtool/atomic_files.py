"""Files written whole or not at all: a reader sees the old content or the new, through any crash."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: str | bytes, mode: int | None = None) -> None:
    """Replace a file by new content. Raises OSError if the file cannot be written; the old one is untouched."""
    with writing(path, mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """Replace a file by what is written until the block ends; a block that fails leaves the old one. The temporary file
    stands beside it, since a rename is atomic within one file system only; it is synced before the rename, or a crash
    could leave an empty file under the right name. A device or pipe is written to as it is. `mode` are its permissions,
    which are there before the content. Raises OSError if the file cannot be written."""
    if _is_stream(path):
        with path.open("wb") as file:
            yield file
        return
    # The longest names that file systems take leave no room for more.
    temporary = path.parent / f".{os.fsdecode(os.fsencode(path.name)[:200])}.{os.getpid()}.tmp"
    try:
        # Path.open takes no opener; with one, nobody else may read the file before it has its mode.
        opener = None if mode is None else lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600)
        with open(temporary, "wb", opener=opener) as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the name that the user knows
        raise
    sync_directory(path.parent)


def _is_stream(path: Path) -> bool:
    # Links are not followed, or what a package has in a prefix could lead elsewhere; these names are those of a user.
    if str(path).startswith(("/dev/std", "/dev/fd/", "/proc/self/fd/")):
        return True
    mode = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
    return not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode))


def create(path: str, mode: int) -> int:
    """Open a new file for writing; its permissions are exactly these, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    if os.fstat(descriptor).st_mode & 0o777 != mode:
        os.fchmod(descriptor, mode)
    return descriptor


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of some bytes; a full disk may take only a part at first."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Make the entries of a directory (a rename, a new file) survive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
