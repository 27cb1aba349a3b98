"""The store of unpacked packages, in a part of the cache that belongs to this user alone: small files lie one after the
other in a *pack*, each large one, to be cloned, in a file named by its sha256. An image is used as long as its *seals*
hold: inode, size and times of each stored file. The kernel sets the time of change whenever a file is written, made
writable, renamed or linked, and no user can set it back; so what has its seal has the bytes that were proven. Where a
seal does not hold, the bytes are hashed, and dropped if they are others. Nothing is synced: what a power failure tears
has neither."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from envtool import scratch
from envtool.artifacts.relocation import Placeholder
from envtool.errors import CacheError
from envtool.fetch.archive_cache import Cache, sha256_of
from envtool.lockfile.model import LockedPackage
from envtool.prefix.bytecode import WORKER

PACK = "pack"


@dataclass(frozen=True)
class StoredFile:
    """A file of an image."""

    path: str
    mode: int
    sha256: str  # of what is stored: the content with the placeholder where it names the prefix
    size_bytes: int
    offset: int | None = None  # where it begins in the pack; None for a file of its own
    # What is done when it is placed: nothing; `prefix`, `text` or `binary` (the prefix is put in); `record` (scripts
    # are hashed anew); `kept` (nothing, but its hash is not that of its content).
    rewrite: str = ""
    placeholder: str = ""

    def declared(self) -> Placeholder | None:
        """The placeholder that the archive declares."""
        return Placeholder(self.placeholder.encode(), self.rewrite == "binary") if self.placeholder else None


@dataclass(frozen=True)
class CacheEntry:
    """What one package brings."""

    files: tuple[StoredFile, ...]
    links: Mapping[str, str]
    record: Mapping[str, Any] | None  # its record for conda-meta, None for a wheel; `PREFIX_TEXT` stands for the prefix
    # The name of each stored file to its inode, size and times in nanoseconds, as it was written.
    seals: Mapping[str, Sequence[int]] = field(default_factory=dict)
    pack_sha256: str = ""

    @property
    def size_bytes(self) -> int:
        """How much its files hold."""
        return sum(file.size_bytes for file in self.files)


def image_key(package: LockedPackage, python_sha256: str) -> str:
    """What an image is kept under: a hash of all that it depends on, the environment's Python (or "") included."""
    parts = [package.manager, package.name, package.version, package.sha256, *_installers()]
    if depends_on_python(package):
        parts.append(python_sha256)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def depends_on_python(package: LockedPackage) -> bool:
    """Whether a package is installed in another way for another Python; its image holds byte-code only then."""
    if package.manager == "pip" or package.name == "python" or "python" in package.dependencies:
        return True
    return urlsplit(package.url).path.split("/")[-2:-1] == ["noarch"]


def _format(image: CacheEntry) -> bytes:
    """An image's index; it ends with its own hash, so that half of it is known for what it is."""
    content = json.dumps(
        {**asdict(image), "files": [list(asdict(file).values()) for file in image.files]}, separators=(",", ":")
    ).encode()
    return content + b"\n" + hashlib.sha256(content).hexdigest().encode()


@lru_cache(maxsize=1)
def _installers() -> tuple[str, ...]:
    from importlib.metadata import version

    # What these write (first lines of scripts, byte-code, records) may change with their versions. The first number
    # goes up when the form of an image or of the record in it changes.
    return "2", *(version(name) for name in ("py-rattler", "uv")), hashlib.sha256(WORKER.read_bytes()).hexdigest()


SETTING = "ENVTOOL_UNPACKED"
_SETTINGS = ("always", "reflink", "never")
_INDEX = "index"


class Kept(NamedTuple):
    """One image as it lies in the store."""

    key: str
    size_bytes: int
    used_s: float  # since the epoch


class PackageCache:
    """The images of this user in a cache. Raises CacheError if the setting is unknown."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.root = cache.root / "unpacked" / str(os.geteuid())
        setting = os.environ.get(SETTING) or _SETTINGS[0]
        if setting not in _SETTINGS:
            raise CacheError(f"{SETTING} is {setting!r}", f"it may be {', '.join(_SETTINGS)}")
        self.is_used = setting != "never"  # whether images are to be used and kept at all
        # Whether only that is kept of which the file system can make clones, so that it takes no room.
        self.clones_only = setting == "reflink"

    def path(self, key: str) -> Path:
        """Where an image is."""
        return self.root / key

    def find(self, key: str) -> CacheEntry | None:
        """The image, if it is there and its bytes are those that were proven; a damaged one is dropped."""
        if not self.is_used or not self.path(key).exists() or not self._is_ours():
            return None
        index = self.path(key) / _INDEX
        try:
            content, _, sha256 = index.read_bytes().rpartition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != sha256:
                raise ValueError("the index of an unpacked package does not have its hash")
            data = json.loads(content)
            data["files"] = tuple(StoredFile(*each) for each in data["files"])
            image = self._sealed(key, CacheEntry(**data))
            os.utime(index)
            return image
        except (OSError, ValueError, TypeError, KeyError):
            self.drop(key)
            return None

    def keep(self, key: str, fill: Callable[[Path], CacheEntry]) -> None:
        """Store an image: whole and under its name, or not at all. Raises OSError if it cannot be written."""
        if not self.root.exists():
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self._cache.share(self.root.parent)
            self.root.mkdir(mode=0o700, exist_ok=True)
        if not self._is_ours():
            raise PermissionError(f"{self.root} belongs to somebody else, or others may write to it")
        with scratch.scratch_directory(self.root) as growing:
            image = replace(fill(growing), seals={each.name: _seal(each) for each in growing.iterdir()})
            (growing / _INDEX).write_bytes(_format(image))
            with contextlib.suppress(OSError):  # another process was quicker
                growing.rename(self.path(key))

    def drop(self, key: str) -> None:
        """Remove an image; one that cannot be removed is left."""
        with contextlib.suppress(OSError), scratch.scratch_directory(self.root) as growing:
            # Renamed first, so that nobody finds a part of it.
            self.path(key).rename(growing / key)

    def kept(self) -> list[Kept]:
        """What the store holds, what was used last first."""
        if not self._is_ours():
            return []
        found = []
        for place in self.root.iterdir():
            with contextlib.suppress(OSError):
                if not place.name.startswith(scratch.PREFIX):
                    sizes = sum(each.stat().st_size for each in place.iterdir())
                    found.append(Kept(place.name, sizes, (place / _INDEX).stat().st_mtime))
        return sorted(found, key=lambda each: -each.used_s)

    def _is_ours(self) -> bool:
        # Whoever may write here may run code in every environment that is made from it.
        try:
            status = self.root.stat()
        except OSError:
            return False
        return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def _sealed(self, key: str, image: CacheEntry) -> CacheEntry:
        place = self.path(key)
        seals = {name: _seal(place / name) for name in image.seals}
        broken = [name for name, seal in seals.items() if seal != list(image.seals[name])]
        for name in broken:
            if sha256_of(place / name) != (image.pack_sha256 if name == PACK else name):
                raise ValueError(f"{place / name} does not have the bytes that were stored")
        if not broken:
            return image
        # A cache that was moved or brought back from a backup: right, with other inodes and times.
        image = replace(image, seals=seals)
        with scratch.scratch_directory(self.root) as growing:
            (growing / _INDEX).write_bytes(_format(image))
            (growing / _INDEX).replace(place / _INDEX)
        return image


def _seal(path: Path) -> list[int]:
    status = path.lstat()
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


# What holds what, for people.
PARTS = ("sha256", "partial", "manifests", "repodata", "unpacked")
_DAY_S = 86_400


def sizes(cache: Cache) -> dict[str, int]:
    """The bytes that each part of a cache takes; unpacked packages of other users cannot be seen, and do not count."""
    found = dict.fromkeys(PARTS, 0)
    for part in PARTS:
        for directory, _, names in os.walk(cache.root / part):
            paths = [os.path.join(directory, name) for name in names]  # noqa: PTH118
            found[part] += sum(os.lstat(path).st_size for path in paths if os.path.lexists(path))
    return found


def stale(store: PackageCache, days: float) -> list[Kept]:
    """The images that were used last before so many days."""
    return [each for each in store.kept() if each.used_s <= time.time() - days * _DAY_S]


def prune(store: PackageCache, images: Sequence[Kept]) -> None:
    """Remove images, and what processes left that were killed."""
    for each in images:
        store.drop(each.key)
    scratch.sweep(store.root)
