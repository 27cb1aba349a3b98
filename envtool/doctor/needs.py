"""The needs of a lock of a machine, read from their names, versions and dependencies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from envtool.doctor.machine_facts import Needs
from envtool.install.disk_space import UNPACKED_FACTOR, with_overhead
from envtool.install.virtual_package_check import find_lacks
from envtool.lockfile.conda_lock_v1 import LockedPackage

# What says it best comes first: a channel may have a cuda-version that is newer than the CUDA in use.
_CONDA_CUDA = ("pytorch-cuda", "cuda-cudart", "cudatoolkit", "cuda-version")
_WHEEL_CUDA = re.compile(r"nvidia-cuda-runtime(-cu\d+)?")
_LOCAL_CUDA = re.compile(r"\+cu(\d\d)(\d+)")
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)")
_OLD_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


def needs(
    packages: Sequence[LockedPackage], detected: Mapping[str, str], sizes: Mapping[str, int], cached: Mapping[str, int]
) -> Needs:
    """What packages need.

    Args:
        cached: what those that are in the cache take once they are unpacked, in bytes, by URL.
    """
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
    )


def cuda_of(packages: Iterable[LockedPackage]) -> str | None:
    """The newest CUDA that packages are built for, conda's and wheels apart."""
    packages = list(packages)
    versions = {each.name: each.version for each in packages if each.manager == "conda"}
    found = [next((each for name in _CONDA_CUDA if (each := _two(versions.get(name, "")))), None)]
    found += [_wheel_cuda(each) for each in packages if each.manager == "pip"]
    known = [each for each in found if each]
    return ".".join(map(str, max(known))) if known else None


def glibc_of(packages: Iterable[LockedPackage]) -> str | None:
    """The newest glibc that wheels are built for."""
    found = [_glibc(package.url.rpartition("/")[2]) for package in packages if package.manager == "pip"]
    known = [each for each in found if each]
    return ".".join(map(str, max(known))) if known else None


def _wheel_cuda(package: LockedPackage) -> tuple[int, ...] | None:
    local = _LOCAL_CUDA.search(package.version)
    if local:
        return int(local[1]), int(local[2])
    return _two(package.version) if _WHEEL_CUDA.fullmatch(package.name) else None


def _two(version: str) -> tuple[int, ...] | None:
    numbers = version.split(".")[:2]
    return tuple(map(int, numbers)) if len(numbers) == 2 and all(each.isdigit() for each in numbers) else None


def _glibc(wheel: str) -> tuple[int, int] | None:
    # A wheel may have several tags; the one for the oldest system counts.
    tags = [(int(major), int(minor)) for major, minor in _MANYLINUX.findall(wheel)]
    tags += [version for tag, version in _OLD_MANYLINUX.items() if f"{tag}_" in wheel]
    return min(tags) if tags else None
