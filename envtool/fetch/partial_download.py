"""A file that grows, claimed by one writer at a time, in a directory that processes and users share.

The lock is the kernel's (flock), so that a killed process leaves none behind. Where the file cannot be claimed (another
user's, or its holder has stopped moving), the writer takes another file: at worst a second download.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.05
_REFUSED = (errno.EACCES, errno.EPERM)
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def claim(
    path: Path, patience_s: float, is_stopped: Callable[[], bool], share: Callable[[Path], None]
) -> Iterator[Path | None]:
    """Claim a growing file, or one of our own beside it.

    Args:
        path: the file that every writer would like to go on with; its directory must be there.

    Yields:
        The file that is ours, which need not be there yet; None when we were stopped.

    Raises:
        OSError: nothing can be written in the directory.
    """
    user, process = (path.with_name(f"{path.name}.{mark}") for mark in (f"user{os.getuid()}", f"pid{os.getpid()}"))
    for candidate in (path, user, process):
        lock = _lock(candidate, patience_s, is_stopped)
        if lock is None:
            continue
        share(_lock_path(candidate))
        try:
            yield None if is_stopped() else candidate
        finally:
            _release(candidate, lock)
        return
    if is_stopped():
        yield None
        return
    raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def siblings(path: Path) -> list[Path]:
    """The files that writers took beside a growing file."""
    return [each for each in path.parent.glob(f"{path.name}.*") if each.suffix != ".lock"]


def _lock(path: Path, patience_s: float, is_stopped: Callable[[], bool]) -> int | None:
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return None
    watch = _Watch(path, patience_s)
    while not is_stopped():
        descriptor = _open(_lock_path(path))
        if descriptor is None:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it after we opened it, and then it locks nothing any more.
            if os.fstat(descriptor).st_nlink > 0:
                return descriptor
            os.close(descriptor)
            continue
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _BUSY:
                return None  # a file system without locks (some NFS): only our own file is safe
        if watch.is_still():
            return None
        time.sleep(_POLL_S)
    return None


def _open(path: Path) -> int | None:
    flags = os.O_CREAT | os.O_CLOEXEC
    # Another user's lock may be readable only, which is enough to lock it. The umask has the last word on the mode.
    for way in (os.O_RDWR | flags, os.O_RDONLY | os.O_CLOEXEC):
        try:
            return os.open(path, way, 0o666)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
    return None


def _release(path: Path, descriptor: int) -> None:
    # Removed while it is held, so that no process takes it in between; kept while there is something to go on with.
    if not path.exists():
        with contextlib.suppress(OSError):
            _lock_path(path).unlink()
    os.close(descriptor)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


class _Watch:
    """Sees whether a file still grows."""

    def __init__(self, path: Path, patience_s: float) -> None:
        self._path, self._patience_s = path, patience_s
        self._seen: int | None = None
        self._since_s = time.monotonic()

    def is_still(self) -> bool:
        try:
            size = self._path.stat().st_size
        except OSError:
            size = -1
        if size != self._seen:
            self._seen, self._since_s = size, time.monotonic()
        return time.monotonic() - self._since_s > self._patience_s
