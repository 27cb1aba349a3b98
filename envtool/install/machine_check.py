"""The machine compared with the needs of a lock, virtual packages and disk space, before a prefix is touched."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from envtool.artifacts import stated_paths
from envtool.artifacts.conda_archive import parse_info, read_info
from envtool.console import size
from envtool.errors import DiskSpaceError, VirtualPackageError
from envtool.lockfile.model import LockedPackage
from envtool.prefix import rattler

_THINGS = {"__glibc": "the C library", "__linux": "the kernel", "__archspec": "the CPU"}
_HINTS = {
    "__cuda": "install a newer NVIDIA driver, or lock for an older CUDA; to make the environment for another machine, "
    "set CONDA_OVERRIDE_CUDA to that machine's version",
    "__glibc": "use a newer Linux distribution, or declare this machine's __glibc in environment.yml and lock again",
    "__linux": "boot a newer kernel, or declare this machine's __linux in environment.yml and lock again",
}


@dataclass(frozen=True)
class Lack:
    """Something that the machine does not have."""

    name: str
    constraint: str
    package: str
    detected: str | None  # None when the machine has none

    def __str__(self) -> str:
        thing = _THINGS.get(self.name, "this machine")
        if self.name == "__cuda":
            has = f"this machine's driver supports CUDA up to {self.detected}: too old"
            has = has if self.detected else "this machine has no CUDA driver"
            return f"{self.package} needs {self.name} {self.constraint}; {has}"
        return f"{self.package} needs {self.name} {self.constraint}; {thing} has {self.detected or 'none'}"


def require(packages: Sequence[LockedPackage]) -> None:
    """Raise VirtualPackageError, with everything, if this machine lacks what packages need."""
    if not any(name.startswith("__") for package in packages for name in package.dependencies):
        return
    lacks = find_lacks(packages, rattler.detect_virtual_packages())
    if lacks:
        message = "this machine lacks what the lock needs:" + "".join(f"\n  {lack}" for lack in lacks)
        raise VirtualPackageError(message, _HINTS.get(lacks[0].name))


def find_lacks(packages: Sequence[LockedPackage], detected: Mapping[str, str]) -> list[Lack]:
    """What packages need and a machine lacks, of whose virtual packages (name to `version build`) it has `detected`."""
    lacks: dict[tuple[str, str], Lack] = {}
    for package in packages:
        for name, constraint in package.dependencies.items():
            version = detected[name].split(" ")[0] if name in detected else None
            # The build of __archspec is the CPU's name, which is older or newer in a family tree that only archspec
            # knows.
            is_there = version is not None and (name == "__archspec" or rattler.satisfies(version, constraint))
            if name.startswith("__") and not is_there:
                lacks.setdefault((name, constraint), Lack(name, constraint, package.name, version))
    return list(lacks.values())


# Byte-code, directory entries and the blocks that small files do not fill: about an eighth on top, by measurement.
_OVERHEAD = 1.125
# What an archive that nobody has seen comes to once it is unpacked.
UNPACKED_FACTOR = 4


def unpacked_bytes(archive: Path) -> int:
    """How many bytes the files of an archive or wheel hold, guessed where it does not state it. Raises ArchiveError."""
    stated = stated_bytes(archive)
    return archive.stat().st_size * UNPACKED_FACTOR if stated is None else stated


@lru_cache(maxsize=1024)
def stated_bytes(archive: Path) -> int | None:
    """The same as it states itself; None where it is from before `paths.json`. Raises ArchiveError."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return sum(member.file_size for member in wheel.infolist())
    info = read_info(archive, ["paths.json"])
    if not info:
        return None
    entries = stated_paths.paths(archive, parse_info(archive, info, "paths.json")).values()
    sizes = (entry.get("size_in_bytes") for entry in entries)
    return sum(size_bytes for size_bytes in sizes if isinstance(size_bytes, int))


def with_overhead(size_bytes: int) -> int:
    """What files of this many bytes in all take in an environment."""
    return int(size_bytes * _OVERHEAD)


def require_room(archives: Iterable[Path], prefix: Path, unpacked: int = 0) -> None:
    """Raise DiskSpaceError, with both figures, if a prefix has no room for what is to be unpacked into it."""
    needed = with_overhead(unpacked + sum(unpacked_bytes(archive) for archive in archives))
    free = shutil.disk_usage(prefix).free
    if needed > free:
        raise DiskSpaceError(
            f"{prefix} has too little room: about {size(needed)} are needed, {size(free)} are free",
            "make room, or choose a place on another disk with -p; nothing in the environment was touched",
        )
