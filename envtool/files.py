"""Files written whole or not at all: a reader sees the old content or the new, through any crash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by new content.

    Args:
        path: The file; its directory must be there.
        content: The whole new content; text is written as UTF-8.

    Raises:
        OSError: The file cannot be written; the old one is untouched.
    """
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Replace a file by what is written until the block ends; a block that fails leaves the old one.

    The temporary file stands beside it, since a rename is atomic within one file system only. It is synced before the
    rename and the directory after it: without the first a crash can leave an empty file under the right name.

    Args:
        path: The file; its directory must be there.

    Raises:
        OSError: The file cannot be written; the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory (a rename, a new file) survive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
