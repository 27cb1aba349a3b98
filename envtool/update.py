"""Move some packages of a lock and nothing else that need not move.

A package goes where a whole new lock would put it (or where the user says). The rest is preferred as it is: the solver
moves it only where the moved packages would not fit otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from envtool import requirements
from envtool.errors import EnvtoolError
from envtool.lock import LockRequest, lock
from envtool.lockfile import LockedPackage, Lockfile
from envtool.pylock import Wheel
from envtool.solve import Preference, Sources
from envtool.spec import package_name


def update(old: Lockfile, updates: Sequence[str], request: LockRequest, sources: Sources) -> Lockfile:
    """Make a lock that differs from an old one in what is asked for.

    Args:
        old: The lock that is there.
        updates: Package names, or match specs that say where to (`numpy=1.26`).
        request: What to lock.
        sources: Where packages come from.

    Raises:
        EnvtoolError: A package is not in the lock.
        SolveError: A platform cannot be satisfied.
    """
    named = {_name(each): each for each in updates}
    _refuse_unknown(old, named)
    wanted = {name: text for name, text in named.items() if text.strip().lower() != name}
    bounds = Preference(constraints=tuple(wanted.values()), pip_constraints=tuple(_pip_bounds(old, wanted)))
    platforms = [each.platform for each in request.spec.platforms]
    fresh = lock(replace(request, preferences=dict.fromkeys(platforms, bounds)), sources)
    preferences = {each: _preference(old, fresh, each, named) for each in platforms}
    return lock(replace(request, preferences=preferences), sources)


def _name(text: str) -> str:
    name = package_name(text)
    if name is None:
        raise EnvtoolError(f"{text!r} names no package", "--update takes numpy, or numpy=1.26 to say where to")
    return name


def _refuse_unknown(old: Lockfile, names: Iterable[str]) -> None:
    known = {each.name for each in old.packages}
    unknown = [each for each in names if each not in known and requirements.name_of(each) not in known]
    if unknown:
        raise EnvtoolError(
            f"the lock has no {', '.join(unknown)}", "add it to environment.yml and run envtool lock without --update"
        )


def _pip_bounds(old: Lockfile, wanted: Mapping[str, str]) -> Iterable[str]:
    in_pip = {each.name for each in old.packages if each.manager == "pip"}
    for name, text in wanted.items():
        if requirements.name_of(name) in in_pip:
            version = text.strip()[len(name) :].lstrip("= ")
            yield f"{name}=={version}" if version[:1].isdigit() else f"{name}{version}"


def _preference(old: Lockfile, fresh: Lockfile, platform: str, moving: Iterable[str]) -> Preference:
    names = {*moving, *(requirements.name_of(each) for each in moving)}
    kept = [each for each in old.packages if each.platform == platform and each.name not in names]
    moved = [each for each in fresh.packages if each.platform == platform and each.name in names]
    return Preference(
        keep=tuple(dict.fromkeys(each.url for each in kept if each.manager == "conda")),
        keep_wheels=tuple(_wheel(each) for each in {p.name: p for p in kept if p.manager == "pip"}.values()),
        constraints=tuple(sorted({_exactly(each) for each in moved if each.manager == "conda"})),
        pip_constraints=tuple(sorted({f"{each.name}=={each.version}" for each in moved if each.manager == "pip"})),
    )


def _exactly(package: LockedPackage) -> str:
    return f"{package.name}[version='=={package.version}',build='{package.build}']"


def _wheel(package: LockedPackage) -> Wheel:
    return Wheel(package.name, package.version, package.url, package.sha256 or "")
