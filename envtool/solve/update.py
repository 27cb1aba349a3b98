"""Move some packages of a lock and nothing else that need not move.

A package goes where a whole new lock would put it (or where the user says). The rest is preferred as it is: the solver
moves it only where the moved packages would not fit otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from envtool.errors import EnvtoolError
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile
from envtool.lockfile.pylock import Wheel
from envtool.solve import recorded_inputs
from envtool.solve.lock import LockRequest, lock
from envtool.solve.recorded_inputs import INPUTS_KEY
from envtool.solve.solution import Preference, Sources
from envtool.spec import pip_requirements
from envtool.spec.environment import PlatformSpec, package_name


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
    commits = {each.platform: _commits(old, each, named) for each in request.spec.platforms}
    limits = {platform: replace(bounds, keep_wheels=kept) for platform, kept in commits.items()}
    fresh = lock(replace(request, preferences=limits), sources)
    preferences = {platform: _preference(old, fresh, platform, named, kept) for platform, kept in commits.items()}
    return lock(replace(request, preferences=preferences), sources)


def _name(text: str) -> str:
    name = package_name(text)
    if name is None:
        raise EnvtoolError(f"{text!r} names no package", "--update takes numpy, or numpy=1.26 to say where to")
    return name


def _refuse_unknown(old: Lockfile, names: Iterable[str]) -> None:
    known = {each.name for each in old.packages}
    unknown = [each for each in names if each not in known and pip_requirements.name_of(each) not in known]
    if unknown:
        raise EnvtoolError(
            f"the lock has no {', '.join(unknown)}", "add it to environment.yml and run envtool lock without --update"
        )


def _pip_bounds(old: Lockfile, wanted: Mapping[str, str]) -> Iterable[str]:
    in_pip = {each.name for each in old.packages if each.manager == "pip"}
    for name, text in wanted.items():
        if pip_requirements.name_of(name) in in_pip:
            version = text.strip()[len(name) :].lstrip("= ")
            yield f"{name}=={version}" if version[:1].isdigit() else f"{name}{version}"


def _commits(old: Lockfile, platform: PlatformSpec, moving: Iterable[str]) -> tuple[Wheel, ...]:
    """The wheels of commits that stay: what moves a branch is not asked as long as its line is as it was."""
    names = recorded_inputs.unchanged_wheels(old.custom_metadata.get(INPUTS_KEY), platform)
    kept = names - {pip_requirements.name_of(each) for each in moving}
    packages = (each for each in old.packages if each.platform == platform.platform and each.built)
    return tuple(_wheel(each) for each in packages if each.name in kept)


def _preference(
    old: Lockfile, fresh: Lockfile, platform: str, moving: Iterable[str], commits: tuple[Wheel, ...]
) -> Preference:
    names = {*moving, *(pip_requirements.name_of(each) for each in moving)}
    here = [each for each in old.packages if each.platform == platform and not each.built]
    kept = [each for each in here if each.name not in names]
    moved = [each for each in fresh.packages if each.platform == platform and each.name in names and not each.built]
    return Preference(
        keep=tuple(dict.fromkeys(each.url for each in kept if each.manager == "conda")),
        keep_wheels=(*(_wheel(each) for each in {p.name: p for p in kept if p.manager == "pip"}.values()), *commits),
        constraints=tuple(sorted({_exactly(each) for each in moved if each.manager == "conda"})),
        pip_constraints=tuple(sorted({f"{each.name}=={each.version}" for each in moved if each.manager == "pip"})),
    )


def _exactly(package: LockedPackage) -> str:
    return f"{package.name}[version='=={package.version}',build='{package.build}']"


def _wheel(package: LockedPackage) -> Wheel:
    return Wheel(
        package.name, package.version, package.url, package.sha256 or "", package.size_bytes, built=package.built
    )
