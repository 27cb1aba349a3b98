"""The cache: proven files by their sha256, in a directory that processes and users of a group may share.

A file is hashed again whenever it is taken out. To share a cache, its root belongs to the group, is group-writable and
has the set-group-ID bit; then whatever is made in it is the group's as well, whatever the umask.

    install -d -m 2775 -g ml /srv/envtool-cache
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from envtool.atomic_files import sync_directory
from envtool.errors import CacheError
from envtool.fetch.partial_download import claim, siblings

_READ_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE_HINT = "make room, or set ENVTOOL_CACHE_DIR to a directory on a larger disk; what has arrived is kept"
_READ_ONLY_HINT = "set ENVTOOL_CACHE_DIR to a directory that you may write to"


@dataclass(frozen=True)
class Wanted:
    """A file by its content.

    Args:
        name: the file name that the content goes by, kept in the cache because installers read it.
        sha256: the hash of the content, 64 lower-case hexadecimal digits.
    """

    name: str
    sha256: str
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
        """Claim the file in which the content grows.

        Args:
            patience_s: how long another process that fetches the same may stand still before we fetch it ourselves.

        Yields:
            The file that is ours to write; None when we were stopped.
        """
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
        for sibling in siblings(self.partial(wanted)):
            with contextlib.suppress(OSError):
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
        return CacheError(
            f"no space for {wanted.name} in the cache {self.root}: {need}{self.free_bytes():,} bytes are free",
            _NO_SPACE_HINT,
        )

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
            path.mkdir(exist_ok=True)
        else:
            path.mkdir(parents=True, exist_ok=True)
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
