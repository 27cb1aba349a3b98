"""Requirements of a wheel as conda match specs: its Requires-Dist as match specs, markers decided for one target.

A conda package has no markers, so each is decided when the package is made. A noarch package is for many Pythons and
platforms: a marker that asks for them is an error there, unless a Python is named. Extras are wishes of the user that a
package has no place for; what only they need is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement

from envtool.errors import ArchiveError

_OF_PYTHON = ("python_version", "python_full_version", "implementation_version")
_OF_MACHINE = ("sys_platform", "platform_system", "platform_machine", "os_name", "platform_release", "platform_version")
_SYSTEMS = {"linux": ("linux", "Linux", "posix"), "osx": ("darwin", "Darwin", "posix")}
_MACHINES = {"64": "x86_64"}


@dataclass(frozen=True)
class Target:
    """What a package is made for."""

    subdir: str
    python: str | None  # such as `3.11`; None where any will do


def match_specs(requires: Sequence[str], target: Target, names: Mapping[str, str], owner: str) -> tuple[str, ...]:
    """The sorted match specs that stand for the requirements that a target needs.

    Raises:
        ArchiveError: a line cannot be expressed as a match spec.
    """
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
    answers = {requirement.marker.evaluate(each) for each in environments}
    if len(answers) > 1:
        what = "--python" if asks_python else "a requirement without the marker"
        raise ArchiveError(f"{owner} needs {requirement}, which a noarch package cannot express", f"name {what}")
    return answers.pop()


def _environment(target: Target) -> dict[str, str]:
    system, _, bits = target.subdir.partition("-")
    sys_platform, platform_system, os_name = _SYSTEMS.get(system, _SYSTEMS["linux"])
    python = target.python or "3.9"
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": sys_platform,
        "platform_system": platform_system,
        "os_name": os_name,
        "platform_machine": _MACHINES.get(bits, bits),
        "extra": "",
    }


def _match_spec(requirement: Requirement, names: Mapping[str, str], owner: str) -> str:
    if requirement.url:
        raise ArchiveError(f"{owner} needs {requirement}, and conda has no requirements that are URLs")
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    name = names.get(name, name)
    clauses = sorted(str(each) for each in requirement.specifier)
    unknown = [each for each in clauses if each.startswith("===") or "+" in each]
    if unknown:
        raise ArchiveError(
            f"{owner} needs {requirement}, which cannot be expressed as a conda version: {', '.join(unknown)}"
        )
    return f"{name} {','.join(clauses)}".strip()
