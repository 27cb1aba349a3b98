"""The state of a machine, the needs of a lock and the findings as frozen values; every check is a function of them."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envtool.install.cuda import Gpu, cuda_of
from envtool.install.machine_check import UNPACKED_FACTOR, find_lacks, with_overhead
from envtool.lockfile.model import LockedPackage

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)")
_OLD_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


class Severity(enum.Enum):
    """How bad it is."""

    ERROR = "error"  # something will fail
    WARNING = "warning"  # something may fail, or be other than it seems
    NOTE = "note"  # good to know


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    severity: Severity
    check: str
    message: str
    hint: str


@dataclass(frozen=True)
class Place:
    """A directory that envtool writes to."""

    path: Path
    role: str
    is_writable: bool  # whether it, or the nearest directory that is there, can be written
    mode: int | None
    free_bytes: int
    free_files: int | None  # how many files its disk can still take; None where it does not count them
    device: int  # the number of its disk; two places with the same share its room


@dataclass(frozen=True)
class Inotify:
    """The limits of file events for one user."""

    max_instances: int
    max_watches: int
    used_instances: int


@dataclass(frozen=True)
class Reach:
    """Whether a channel or a store of wheels can be reached."""

    channel: str
    places: int
    answering: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MachineFacts:
    """Everything that is known of a machine."""

    environ: Mapping[str, str] = field(default_factory=dict)
    # the virtual packages of conda, name to `version` or `version build`
    virtual_packages: Mapping[str, str] = field(default_factory=dict)
    gpu: Gpu = field(default_factory=Gpu)
    places: tuple[Place, ...] = ()
    inotify: Inotify | None = None
    encoding: str = "utf-8"
    has_locale: bool = True
    # paths in variables, with whether they are there; `links` has where they lead
    files: Mapping[str, bool] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    # for each proxy of the environment, why it cannot be used; None when it accepts connections
    proxies: Mapping[str, str | None] = field(default_factory=dict)
    reach: tuple[Reach, ...] | None = None  # the channels of the lock; None when they were not asked
    # a server, and by how many seconds this machine's clock is ahead of that one's; None when no server was asked
    clock: tuple[str, float] | None = None
    condarc: Mapping[Path, Mapping[str, str]] = field(default_factory=dict)  # the keys of each file of conda's
    user_packages: tuple[Path, ...] = ()
    # directories of LD_LIBRARY_PATH with their libraries of CUDA or PyTorch
    shadows: Mapping[Path, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What a lock needs of a machine."""

    lacks: tuple[tuple[str, str], ...] = ()  # what the machine does not have of it, in words, by virtual package
    cuda: str | None = None
    glibc: str | None = None
    missing_bytes: int = 0  # the size of its archives and wheels that are not in the cache, as far as it is known
    # what an environment of all of them takes: measured for those that are in the cache, and guessed from the size for
    # others
    unpacked_bytes: int = 0
    unknown: int = 0  # how many of those that are not in the cache have an unknown size
    is_cached: bool = False
    package_count: int = 0


def needs(
    packages: Sequence[LockedPackage], detected: Mapping[str, str], sizes: Mapping[str, int], cached: Mapping[str, int]
) -> Needs:
    """What packages need (`cached`: what those that are in the cache take once they are unpacked, in bytes, by URL)."""
    lacks = tuple((lack.name, str(lack)) for lack in find_lacks(packages, detected))
    missing = [package.url for package in packages if package.url not in cached]
    missing_bytes = sum(sizes.get(url, 0) for url in missing)
    return Needs(
        lacks,
        cuda_of(packages),
        glibc_of(packages),
        missing_bytes,
        with_overhead(sum(cached.values()) + missing_bytes * UNPACKED_FACTOR),
        sum(url not in sizes for url in missing),
        bool(packages) and not missing,
        len(packages),
    )


def glibc_of(packages: Iterable[LockedPackage]) -> str | None:
    """The newest glibc that wheels are built for."""
    found = []
    for wheel in (package.url.rpartition("/")[2] for package in packages if package.manager == "pip"):
        # A wheel may have several tags; the one for the oldest system counts.
        tags = [(int(major), int(minor)) for major, minor in _MANYLINUX.findall(wheel)]
        tags += [version for tag, version in _OLD_MANYLINUX.items() if f"{tag}_" in wheel]
        found += [min(tags)] if tags else []
    return ".".join(map(str, max(found))) if found else None
