"""A directory for a piece of work, locked by its process: the next process removes what nobody holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# No name that a person would give a directory of hers.
PREFIX = "envtool-scratch-"
# One that is younger may just be about to be locked.
_YOUNG_S = 60.0


@contextmanager
def scratch_directory(place: Path | None = None) -> Iterator[Path]:
    """Make a directory that is removed when the block ends, where temporary files go or in a place of its own."""
    sweep(place or Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as directory:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then nothing is ever swept there
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(directory)
        finally:
            os.close(descriptor)


def sweep(place: Path) -> None:
    """Remove what processes left in a place that were killed."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_uid == os.getuid() and time.time() - status.st_mtime >= _YOUNG_S:
                        _remove_if_left(Path(entry.path))


def _remove_if_left(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
