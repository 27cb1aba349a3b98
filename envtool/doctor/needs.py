"""The needs of a lock of a machine, read from their names, versions and dependencies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from envtool.doctor.machine_facts import Needs
from envtool.install.cuda import cuda_of
from envtool.install.machine_check import UNPACKED_FACTOR, find_lacks, with_overhead
from envtool.lockfile.conda_lock_v1 import LockedPackage

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)")
_OLD_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


def needs(
    packages: Sequence[LockedPackage], detected: Mapping[str, str], sizes: Mapping[str, int], cached: Mapping[str, int]
) -> Needs:
    """What packages need (`cached`: what those that are in the cache take once they are unpacked, in bytes, by URL)."""
    lacks = tuple((each.name, str(each)) for each in find_lacks(packages, detected))
    missing = [each.url for each in packages if each.url not in cached]
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
    found = [_glibc(package.url.rpartition("/")[2]) for package in packages if package.manager == "pip"]
    known = [each for each in found if each]
    return ".".join(map(str, max(known))) if known else None


def _glibc(wheel: str) -> tuple[int, int] | None:
    # A wheel may have several tags; the one for the oldest system counts.
    tags = [(int(major), int(minor)) for major, minor in _MANYLINUX.findall(wheel)]
    tags += [version for tag, version in _OLD_MANYLINUX.items() if f"{tag}_" in wheel]
    return min(tags) if tags else None
