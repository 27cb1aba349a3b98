"""Any wheel becomes a conda package with its dependencies: noarch, or for one Python and platform if it is compiled. A
conda package has no markers: each is decided when it is made, and one that asks for Python or machine is an error in a
noarch package, unless a Python is named. What only extras need is left out; the names of PyPI are taken for conda's
unless others are given. Source: the PyPA specifications "Platform compatibility tags" and "Binary distribution format".
Out of scope: shared libraries that a conda package has as well, and Windows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envtool.artifacts.conda_package import PLACEHOLDER, Entry, Package
from envtool.errors import ArchiveError
from envtool.wheels import reader
from envtool.wheels.reader import Wheel, license_of

_OF_PYTHON = ("python_version", "python_full_version", "implementation_version")
_OF_MACHINE = ("sys_platform", "platform_system", "platform_machine", "os_name", "platform_release", "platform_version")
_SYSTEMS = {"linux": ("linux", "Linux", "posix"), "osx": ("darwin", "Darwin", "posix")}
_MACHINES = {"64": "x86_64"}


class Target(NamedTuple):
    """What a package is made for: a subdir, a Python such as `3.11` (None where any will do), and what both need."""

    subdir: str
    python: str | None
    depends: tuple[str, ...] = ()


def match_specs(requires: Sequence[str], target: Target, names: Mapping[str, str], owner: str) -> tuple[str, ...]:
    """The sorted match specs of the requirements that a target needs. Raises ArchiveError if one has none."""
    found = set()
    for line in requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise ArchiveError(f"{owner} needs {line!r}, which is not a valid requirement: {error}") from error
        if _is_needed(requirement, target, owner):
            found.add(_match_spec(requirement, names, owner))
    return tuple(sorted(found))


def _is_needed(requirement: Requirement, target: Target, owner: str) -> bool:
    if requirement.marker is None:
        return True
    text = str(requirement.marker)
    asks_python = target.python is None and any(name in text for name in _OF_PYTHON)
    asks_machine = target.subdir == "noarch" and any(name in text for name in _OF_MACHINE)
    if not asks_python and not asks_machine:
        return requirement.marker.evaluate(_environment(target))
    # What no extra asks for is left out whatever Python and machine there are.
    pythons = [target.python] if target.python else [f"3.{minor}" for minor in range(7, 16)]
    environments = [_environment(Target(subdir, python)) for subdir in ("linux-64", "osx-arm64", "linux-aarch64")
                    for python in pythons]  # fmt: skip
    answers = {requirement.marker.evaluate(environment) for environment in environments}
    if len(answers) > 1:
        what = "--python" if asks_python else "a requirement without the marker"
        raise ArchiveError(f"{owner} needs {requirement}, which a noarch package cannot express", f"name {what}")
    return answers.pop()


def _environment(target: Target) -> dict[str, str]:
    system, _, bits = target.subdir.partition("-")
    sys_platform, platform_system, os_name = _SYSTEMS.get(system, _SYSTEMS["linux"])
    python = target.python or "3.9"
    return {
        "python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython",
        "platform_python_implementation": "CPython", "sys_platform": sys_platform, "platform_system": platform_system,
        "os_name": os_name, "platform_machine": _MACHINES.get(bits, bits), "extra": "",
    }  # fmt: skip


def _match_spec(requirement: Requirement, names: Mapping[str, str], owner: str) -> str:
    if requirement.url:
        raise ArchiveError(f"{owner} needs {requirement}, and conda has no requirements that are URLs")
    name = canonicalize_name(requirement.name)
    clauses = sorted(str(each) for each in requirement.specifier)
    unknown = [clause for clause in clauses if clause.startswith("===") or "+" in clause]
    if unknown:
        message = f"{owner} needs {requirement}, which cannot be expressed as a conda version: {', '.join(unknown)}"
        raise ArchiveError(message)
    return f"{names.get(name, name)} {','.join(clauses)}".strip()


_NAME = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_(x86_64|aarch64|ppc64le|s390x)")
_LEGACY = {"manylinux1": "manylinux_2_5", "manylinux2010": "manylinux_2_12", "manylinux2014": "manylinux_2_17"}
_MACOS = re.compile(r"macosx_(\d+)_(\d+)_(x86_64|arm64|universal2)")
_LINUX = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le", "s390x": "linux-s390x"}
_OSX = {"x86_64": "osx-64", "arm64": "osx-arm64"}
_CPYTHON = re.compile(r"cp3(\d+)")


def fit_of(file_name: str, python: str | None, platform: str | None) -> Target:
    """What a wheel fits. Raises ArchiveError for no valid name, or where it does not run on what is wanted."""
    match = _NAME.fullmatch(file_name)
    if not match:
        raise ArchiveError(f"{file_name} is not named like a wheel", "NAME-VERSION-PYTHON-ABI-PLATFORM.whl is the form")
    if match["abi"] == "none" and match["platform"] == "any":
        return Target("noarch", None)
    subdir, machine = _platform(file_name, match["platform"].split("."), platform)
    minor = _minor(file_name, match["python"].split("."), match["abi"].split("."), python)
    return Target(subdir, f"3.{minor}", (_pin(minor), *machine))


def _pin(minor: int) -> str:
    return f"python >=3.{minor},<3.{minor + 1}.0a0"


def _minor(file_name: str, pythons: list[str], abis: list[str], python: str | None) -> int:
    minors = [int(each[1]) for tag in pythons if (each := _CPYTHON.fullmatch(tag))]
    is_stable = "abi3" in abis or "none" in abis
    wanted = int(python.partition(".")[2]) if python else None
    if not is_stable and len(minors) == 1:
        if wanted not in (None, minors[0]):
            raise ArchiveError(f"{file_name} is for Python 3.{minors[0]}: expected one for Python {python}")
        return minors[0]
    if wanted is None:
        message = f"{file_name} runs on several Pythons, and a conda package with compiled code is for one"
        raise ArchiveError(message, "say which with --python, once for each that you need")
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
        return {_OSX[machine]: (int(macos[1]), int(macos[2])) for machine in machines}
    return {}


_SCRIPT = """\
#!{placeholder}/bin/python
import sys

from {module} import {name}

if __name__ == "__main__":
    sys.exit({target}())
"""
_ENTRY_POINT = re.compile(r"([A-Za-z_][\w.]*)\s*:\s*([A-Za-z_][\w.]*)")


@dataclass(frozen=True)
class ConversionOptions:
    """What a package is wanted for."""

    python: str | None = None
    platform: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    build_number: int = 0  # the higher wins


def convert(path: Path, wish: ConversionOptions) -> Package:
    """Make a package of a wheel. Raises ArchiveError if it is damaged or conda cannot express what it needs."""
    wheel = Wheel.read(path)
    wheel.check_record()
    metadata, scripts = wheel.headers("METADATA"), wheel.console_scripts()
    fit = fit_of(path.name, wish.python, wish.platform)
    name = canonicalize_name(reader.one_line(metadata, "Name"))
    origin_of = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    origin = Entry("recipe/wheel.json", (json.dumps(origin_of, indent=1) + "\n").encode())
    package = Package(
        name=wish.names.get(name, name), version=reader.one_line(metadata, "Version").replace("-", "_"),
        build_number=wish.build_number, subdir=fit.subdir, depends=_depends(wheel, metadata, fit, wish),
        license=license_of(metadata.as_string()) or "unknown", summary=reader.one_line(metadata, "Summary"),
        home=reader.one_line(metadata, "Home-page") or None, files=(), about=(*wheel.licenses(), origin),
    )  # fmt: skip
    if fit.python is None:
        files = reader.NOARCH.place(wheel, [f"bin/{name}" for name in scripts])
        return package._replace(files=files, entry_points=tuple(f"{name} = {scripts[name]}" for name in scripts))
    generated = [_script(name, target, path.name) for name, target in scripts.items()]
    site = f"lib/python{fit.python}/site-packages"
    places = reader.Layout(site, "bin", f"include/python{fit.python}/{package.name}", site)
    files = (*places.place(wheel, [each.path for each in generated]), *generated)
    return package._replace(files=files, build_prefix=f"py{fit.python.replace('.', '')}")


def _depends(wheel: Wheel, metadata: Message, fit: Target, wish: ConversionOptions) -> tuple[str, ...]:
    requires, python = [str(each) for each in metadata.get_all("Requires-Dist", [])], wheel.python_spec()
    try:
        needed = match_specs(requires, fit, wish.names, wheel.name)
    except ArchiveError:
        if fit.python is not None or wish.python is None:
            raise
        # A marker asks for the Python, so that the package is for the one that was named, and no other.
        needed = match_specs(requires, Target("noarch", wish.python), wish.names, wheel.name)
        return (_pin(int(wish.python.partition(".")[2])), *needed)
    return (*fit.depends, *([python] if fit.python is None or python != "python" else []), *needed)


def _script(name: str, target: str, owner: str) -> Entry:
    match = _ENTRY_POINT.fullmatch(target)
    if not match:
        raise ArchiveError(f"{owner} has an invalid console script: {name} = {target}")
    text = _SCRIPT.format(placeholder=PLACEHOLDER, module=match[1], name=match[2].partition(".")[0], target=match[2])
    return Entry(f"bin/{name}", text.encode(), is_executable=True, has_placeholder=True)
