"""Comparison of this machine with what the packages of a lock need of it, before a byte is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envtool.errors import VirtualPackageError
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
    """Check that this machine has what packages need. Raises VirtualPackageError if it lacks something; everything that
    it lacks is named."""
    if not any(name.startswith("__") for package in packages for name in package.dependencies):
        return
    lacks = find_lacks(packages, rattler.detect_virtual_packages())
    if lacks:
        message = "this machine lacks what the lock needs:" + "".join(f"\n  {each}" for each in lacks)
        raise VirtualPackageError(message, _HINTS.get(lacks[0].name))


def find_lacks(packages: Sequence[LockedPackage], detected: Mapping[str, str]) -> list[Lack]:
    """What packages need and a machine does not have; one for each virtual package and constraint.

    Args:
        detected: the machine's virtual packages, name to `version` or `version build`.
    """
    lacks: dict[tuple[str, str], Lack] = {}
    for package in packages:
        for name, constraint in package.dependencies.items():
            if name.startswith("__") and not _has(name, constraint, detected):
                version = detected[name].split(" ")[0] if name in detected else None
                lacks.setdefault((name, constraint), Lack(name, constraint, package.name, version))
    return list(lacks.values())


def _has(name: str, constraint: str, detected: Mapping[str, str]) -> bool:
    if name not in detected:
        return False
    # The build of __archspec is the CPU's name, which is older or newer in a family tree that only archspec knows.
    return name == "__archspec" or rattler.satisfies(detected[name].split(" ")[0], constraint)
