"""The cache: proven files by their sha256, hashed again whenever they are taken out, in a directory that a group may
share: its root is group-writable with the set-group-ID bit (`install -d -m 2775 -g ml DIR`), and what is made in it
follows. A file that grows is claimed by one writer, with the kernel's lock. Where it cannot be claimed (another user's,
or its holder has stopped moving), the writer takes another file: at worst a second download."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from envtool.atomic_files import sync_directory
from envtool.errors import CacheError

_POLL_S = 0.05
_REFUSED = (errno.EACCES, errno.EPERM)
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def claim(
    path: Path, patience_s: float, is_stopped: Callable[[], bool], share: Callable[[Path], None]
) -> Iterator[Path | None]:
    """Claim a growing file, whose directory is there, or one of our own beside it. Yields the file that is ours, which
    need not be there yet; None when we were stopped. Raises OSError if nothing can be written in the directory."""
    user, process = (path.with_name(f"{path.name}.{mark}") for mark in (f"user{os.getuid()}", f"pid{os.getpid()}"))
    for candidate in (path, user, process):
        lock = _lock(candidate, patience_s, is_stopped)
        if lock is None:
            continue
        share(_lock_path(candidate))
        try:
            yield None if is_stopped() else candidate
        finally:
            # Removed while it is held, so that no process takes it in between; kept while there is something to go on
            # with.
            if not candidate.exists():
                with contextlib.suppress(OSError):
                    _lock_path(candidate).unlink()
            os.close(lock)
        return
    if is_stopped():
        yield None
        return
    raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def _lock(path: Path, patience_s: float, is_stopped: Callable[[], bool]) -> int | None:
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return None
    seen_bytes, since_s = -2, time.monotonic()
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
        size_bytes = -1
        with contextlib.suppress(OSError):
            size_bytes = path.stat().st_size
        if size_bytes != seen_bytes:
            seen_bytes, since_s = size_bytes, time.monotonic()
        if time.monotonic() - since_s > patience_s:
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


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


_READ_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE_HINT = "make room, or set ENVTOOL_CACHE_DIR to a directory on a larger disk; what has arrived is kept"
_READ_ONLY_HINT = "set ENVTOOL_CACHE_DIR to a directory that you may write to"


@dataclass(frozen=True)
class Wanted:
    """A file by its content."""

    name: str  # the file name that the content goes by, kept in the cache because installers read it
    sha256: str  # the hash of the content, 64 lower-case hexadecimal digits
    urls: tuple[str, ...]
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        # It comes from a URL in a file that somebody wrote, and %2F in it is a slash.
        if self.name in ("", ".", "..") or "/" in self.name or "\0" in self.name:
            raise CacheError(f"{self.name!r} is not the name of a file", "the URL of an archive must end with its name")


class Cache:
    """The content-addressed directory of proven files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, wanted: Wanted) -> Path:
        """Where the content is when it has been fetched."""
        return self.root / "sha256" / wanted.sha256[:2] / wanted.sha256 / wanted.name

    def partial(self, wanted: Wanted) -> Path:
        """Where the content grows until it is whole."""
        return self.root / "partial" / wanted.sha256

    def find(self, wanted: Wanted) -> Path | None:
        """The file, if it is in the cache and its bytes are still the right ones."""
        path = self.path(wanted)
        with contextlib.suppress(OSError):
            # A size that is known to be wrong saves reading the rest.
            if wanted.size_bytes in (None, path.stat().st_size) and sha256_of(path) == wanted.sha256:
                return path
        return None

    @contextmanager
    def growing(self, wanted: Wanted, patience_s: float, is_stopped: Callable[[], bool]) -> Iterator[Path | None]:
        """Claim the file in which the content grows; yields it, or None when we were stopped (`patience_s`: how long
        another process that fetches the same may stand still before we fetch it ourselves)."""
        partial = self.partial(wanted)
        with contextlib.ExitStack() as stack:
            with self.storing(wanted, None):
                self._make_directory(partial.parent)
                path = stack.enter_context(claim(partial, patience_s, is_stopped, self.share))
            yield path

    def store(self, wanted: Wanted, partial: Path) -> Path:
        """Move a whole, proven and synced file to its place."""
        path = self.path(wanted)
        with self.storing(wanted, None):
            self._make_directory(path.parent)
            self.share(partial)
            try:
                partial.replace(path)
            except FileNotFoundError:
                # Another process that fetched the same was quicker, and has cleaned up.
                found = self.find(wanted)
                if found is None:
                    raise
                return found
            sync_directory(path.parent)
        for sibling in self.partial(wanted).parent.glob(f"{wanted.sha256}.*"):
            with contextlib.suppress(OSError):
                if sibling.suffix != ".lock":
                    sibling.unlink()
        return path

    def share(self, path: Path) -> None:
        """Give a new file or directory of ours the group rights that the root has, if the root is a shared one."""
        with contextlib.suppress(OSError):
            root = self.root.stat().st_mode
            if not (root & stat.S_ISGID and root & stat.S_IWGRP):
                return
            mode = path.stat().st_mode
            wanted = mode | (root & (0o070 | stat.S_ISGID) if stat.S_ISDIR(mode) else root & 0o060)
            if wanted != mode:
                path.chmod(stat.S_IMODE(wanted))

    @contextmanager
    def storing(self, wanted: Wanted, need_bytes: int | None) -> Iterator[None]:
        """Turn an OSError of writing into an error that names the file and the cache."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise self.no_space(wanted, need_bytes) from error
            reason = error.strerror or str(error)
            message = f"{wanted.name} cannot be written to the cache {self.root}: {reason}"
            raise CacheError(message, _READ_ONLY_HINT) from error

    def no_space(self, wanted: Wanted, need_bytes: int | None) -> CacheError:
        """The error for a disk that is full."""
        need = "" if need_bytes is None else f"{need_bytes:,} bytes more are needed, "
        message = f"no space for {wanted.name} in the cache {self.root}: {need}{self.free_bytes():,} bytes are free"
        return CacheError(message, _NO_SPACE_HINT)

    def free_bytes(self) -> int:
        """How much this user can still write here."""
        status = os.statvfs(self.root)
        # Some network file systems do not say.
        return status.f_bavail * status.f_frsize if status.f_blocks else sys.maxsize

    def _make_directory(self, path: Path) -> None:
        if path.is_dir():
            return
        if path != self.root:
            self._make_directory(path.parent)
        path.mkdir(parents=path == self.root, exist_ok=True)
        # Not synced: a directory that a crash takes away costs a download, and nothing wrong is left.
        self.share(path)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    update_from(digest, path)
    return digest.hexdigest()


def update_from(digest: hashlib._Hash, path: Path) -> int:
    """Feed a whole file to a hash; its size is returned."""
    count = 0
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            digest.update(view[:got])
            count += got
    return count
