"""What is checked before a prefix is touched: virtual packages, disk space, distributions that two packages bring."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

from envtool.artifacts.conda_archive import parse_info, read_info
from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import Declared, stated_paths
from envtool.console import size
from envtool.errors import DiskSpaceError, Issue, LockfileError, VirtualPackageError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.lockfile.model import LockedPackage
from envtool.prefix import rattler
from envtool.pypi.distributions import distributions_in

_THINGS = {"__glibc": "the C library", "__linux": "the kernel", "__archspec": "the CPU"}
_HINTS = {
    "__cuda": "install a newer NVIDIA driver, or lock for an older CUDA; to make the environment for another machine, "
    "set CONDA_OVERRIDE_CUDA to that machine's version",
    "__glibc": "use a newer Linux distribution, or declare this machine's __glibc in environment.yml and lock again",
    "__linux": "boot a newer kernel, or declare this machine's __linux in environment.yml and lock again",
}


class Lack(NamedTuple):
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
    entries = stated_paths(archive, parse_info(archive, info, "paths.json")).values()
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


_HINT = (
    "run envtool lock again where these archives are in the cache, as they are now: it reads in them what they bring; "
    "or take the conda package or the requirement out of environment.yml"
)
_METADATA = re.compile(r"(?:^|/)site-packages/([^/]+)-([^/-]+)\.dist-info/METADATA")


def refuse_collisions(wanted: Sequence[LockedPackage], proven: Mapping[str, Path], cache: Cache) -> None:
    """Raise LockfileError, with all of them, if a conda package and a wheel bring one distribution."""
    wheels: dict[str, LockedPackage] = {canonicalize_name(e.name): e for e in wanted if e.manager == "pip"}
    issues = []
    for each in [package for package in wanted if package.manager == "conda"] if wheels else ():
        path = proven.get(each.url) or cache.path(Wanted(each.file_name, require_sha256(each), ()))
        brought = distributions_in(path) if path.is_file() else {}
        for name in sorted(brought.keys() & wheels.keys()):
            both = f"the Python distribution {name} {brought[name]}, and so does {wheels[name].file_name}"
            issues.append(Issue(f"{each.name} {each.version}", f"it brings {both}"))
    if issues:
        raise LockfileError("the lock", issues, _HINT)


def brought_twice(declared: Mapping[str, Declared]) -> list[str]:
    """A line for each Python distribution of which two conda packages bring a version each: pip sees one of them."""
    found: dict[str, list[str]] = {}
    for path in sorted(each for each in declared if each.endswith(".dist-info/METADATA")):
        manager, name = declared[path].package
        if manager == "conda" and (match := _METADATA.search(path)):
            found.setdefault(canonicalize_name(match[1]), []).append(f"{name} ({match[2]})")
    twice = {name: each for name, each in found.items() if len(each) > 1}
    return [f"the Python distribution {name} is brought by {' and '.join(each)}" for name, each in twice.items()]
