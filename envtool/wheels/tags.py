"""Machines and Pythons that a wheel runs on, by the tags in its name, as match specs.

Source: the PyPA specifications "Platform compatibility tags" and "Binary distribution format". Out of scope: Windows,
where packages are laid out in another way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from envtool.errors import ArchiveError

_NAME = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_(x86_64|aarch64|ppc64le|s390x)")
_LEGACY = {"manylinux1": "manylinux_2_5", "manylinux2010": "manylinux_2_12", "manylinux2014": "manylinux_2_17"}
_MACOS = re.compile(r"macosx_(\d+)_(\d+)_(x86_64|arm64|universal2)")
_LINUX = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le", "s390x": "linux-s390x"}
_OSX = {"x86_64": "osx-64", "arm64": "osx-arm64"}
_CPYTHON = re.compile(r"cp3(\d+)")


@dataclass(frozen=True)
class Fit:
    """What a wheel fits.

    Args:
        subdir: the conda subdir; `noarch` for a wheel of Python only.
        python: the one minor version that its package is for, such as `3.11`; None for noarch.
    """

    subdir: str
    python: str | None
    depends: tuple[str, ...]


def fit(file_name: str, python: str | None, platform: str | None) -> Fit:
    """What a wheel fits. Raises ArchiveError for no valid name, or where it does not run on what is wanted."""
    match = _NAME.fullmatch(file_name)
    if not match:
        raise ArchiveError(f"{file_name} is not named like a wheel", "NAME-VERSION-PYTHON-ABI-PLATFORM.whl is the form")
    if match["abi"] == "none" and match["platform"] == "any":
        return Fit("noarch", None, ())
    subdir, machine = _platform(file_name, match["platform"].split("."), platform)
    minor = _minor(file_name, match["python"].split("."), match["abi"].split("."), python)
    return Fit(subdir, f"3.{minor}", (f"python >=3.{minor},<3.{minor + 1}.0a0", *machine))


def _minor(file_name: str, pythons: list[str], abis: list[str], python: str | None) -> int:
    minors = [int(each[1]) for tag in pythons if (each := _CPYTHON.fullmatch(tag))]
    is_stable = "abi3" in abis or "none" in abis
    wanted = int(python.partition(".")[2]) if python else None
    if not is_stable and len(minors) == 1:
        if wanted not in (None, minors[0]):
            raise ArchiveError(f"{file_name} is for Python 3.{minors[0]}: expected one for Python {python}")
        return minors[0]
    if wanted is None:
        raise ArchiveError(
            f"{file_name} runs on several Pythons, and a conda package with compiled code is for one",
            "say which with --python, once for each that you need",
        )
    oldest = min(minors, default=0)
    if wanted < oldest or not (is_stable or wanted in minors):
        raise ArchiveError(f"{file_name} is for Python 3.{oldest} or newer: expected one for Python {python}")
    return wanted


def _platform(file_name: str, tags: list[str], platform: str | None) -> tuple[str, tuple[str, ...]]:
    found: dict[str, tuple[int, int]] = {}
    for tag in tags:
        # Several tags say that each of them will do, so that the oldest system counts.
        for each, version in _subdirs(tag).items():
            found[each] = min(version, found.get(each, version))
    if not found:
        raise ArchiveError(
            f"{file_name} has no platform tag that a conda package can be made for: {', '.join(tags)}",
            "wheels for manylinux and macOS can be used; one with the tag linux_x86_64 has to pass auditwheel first",
        )
    chosen = [each for each in found if platform in (None, each)]
    if len(chosen) != 1:
        raise ArchiveError(f"{file_name} is for {', '.join(sorted(found))}", "say which with --platform")
    subdir = chosen[0]
    virtual_package = "__glibc" if subdir.startswith("linux-") else "__osx"
    return subdir, (f"{virtual_package} >={found[subdir][0]}.{found[subdir][1]}",)


def _subdirs(tag: str) -> dict[str, tuple[int, int]]:
    for legacy, modern in _LEGACY.items():
        tag = re.sub(rf"^{legacy}_", f"{modern}_", tag)
    if linux := _MANYLINUX.fullmatch(tag):
        return {_LINUX[linux[3]]: (int(linux[1]), int(linux[2]))}
    if macos := _MACOS.fullmatch(tag):
        machines = ["x86_64", "arm64"] if macos[3] == "universal2" else [macos[3]]
        return {_OSX[each]: (int(macos[1]), int(macos[2])) for each in machines}
    return {}
