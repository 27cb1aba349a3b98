"""An update of some packages of a lock: a package goes where a whole new lock would put it, or to the named version.

The rest is preferred as it is: the solver moves it only where the moved packages would not fit otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from envtool.errors import EnvtoolError
from envtool.lockfile.conda_lock_v1 import INPUTS_KEY, LockedPackage, Lockfile
from envtool.lockfile.pylock import Wheel
from envtool.solve import recorded_inputs
from envtool.solve.lock import LockRequest, lock, refusing
from envtool.solve.solution import Preference, Sources
from envtool.spec import pip_requirements
from envtool.spec.environment import PlatformSpec, package_name


def update(old: Lockfile, updates: Sequence[str], request: LockRequest, sources: Sources) -> Lockfile:
    """Make a lock that differs from an old one in what is asked for, and in nothing else that need not differ.

    `updates` is what moves though its line has not changed: package names, or match specs that say where to
    (`numpy=1.26`). Raises EnvtoolError if one is neither in the lock nor in environment.yml, SolveError if a platform
    cannot be satisfied.
    """
    named = {package_of(each): each for each in updates}
    known: set[str | None] = {package.name for package in old.packages}
    for platform in request.spec.platforms:
        known |= {package_name(each.text) for each in platform.conda}
        known |= {pip_requirements.name_of(each.text) for each in platform.pip}
    unknown = [each for each in named if each not in known and pip_requirements.name_of(each) not in known]
    if unknown:
        message = f"neither the lock nor environment.yml has {', '.join(unknown)}"
        raise EnvtoolError(message, "add it to environment.yml and run envtool lock")
    wanted = {name: text for name, text in named.items() if text.strip().lower() != name}
    wheels = {each.name for each in old.packages if each.manager == "pip"}
    pip_bounds = [pip_bound(*each) for each in wanted.items() if pip_requirements.name_of(each[0]) in wheels]
    bounds = Preference(constraints=tuple(wanted.values()), pip_constraints=tuple(pip_bounds))
    commits = {each.platform: _commits(old, each, named) for each in request.spec.platforms}
    fresh: tuple[LockedPackage, ...] = ()
    if named:
        limits = {platform: bounds._replace(keep_wheels=kept) for platform, kept in commits.items()}
        fresh = lock(replace(request, preferences=limits), sources).packages
    preferences = {
        each.platform: _preference(old, fresh, each, named, commits[each.platform]) for each in request.spec.platforms
    }
    return lock(replace(request, preferences=preferences), sources)


def package_of(text: str) -> str:
    """The name of what `--update` names. Raises EnvtoolError if it names no package."""
    name = package_name(text)
    if name is None:
        raise EnvtoolError(f"{text!r} names no package", "--update takes numpy, or numpy=1.26 to say where to")
    return name


def pip_bound(name: str, text: str) -> str:
    """A match spec of a package as pip writes it."""
    version = text.strip()[len(name) :].lstrip("= ")
    return f"{name}=={version}" if version[:1].isdigit() else f"{name}{version}"


def _commits(old: Lockfile, platform: PlatformSpec, moving: Iterable[str]) -> tuple[Wheel, ...]:
    """The wheels of commits that stay: what moves a branch is not asked as long as its line is as it was."""
    names = recorded_inputs.unchanged_wheels(old.custom_metadata.get(INPUTS_KEY), platform)
    kept = names - {pip_requirements.name_of(each) for each in moving}
    packages = (package for package in old.packages if package.platform == platform.platform and package.built)
    return tuple(_wheel(each) for each in packages if each.name in kept)


def _preference(
    old: Lockfile,
    fresh: Sequence[LockedPackage],
    platform: PlatformSpec,
    moving: Iterable[str],
    commits: tuple[Wheel, ...],
) -> Preference:
    names = {*moving, *(pip_requirements.name_of(each) for each in moving)}
    here = [package for package in old.packages if package.platform == platform.platform and not package.built]
    kept = [each for each in here if each.name not in names and not refusing(platform, each)]
    wheels = {each.name: each for each in kept if each.manager == "pip"}
    there = {(each.manager, each.name) for each in here}
    here_now = [each for each in fresh if each.platform == platform.platform and each.name in names]
    moved = [each for each in here_now if (each.manager, each.name) in there]
    exactly = {f"{e.name}[version='=={e.version}',build='{e.build}']" for e in moved if e.manager == "conda"}
    pins = {f"{each.name}=={each.version}" for each in moved if each.manager == "pip" and not each.built}
    return Preference(
        keep=tuple(dict.fromkeys(each.url for each in kept if each.manager == "conda")),
        keep_wheels=(*map(_wheel, wheels.values()), *commits),
        constraints=tuple(sorted(exactly)),
        pip_constraints=tuple(sorted(pins)),
    )


def _wheel(package: LockedPackage) -> Wheel:
    return Wheel(
        package.name, package.version, package.url, package.sha256 or "", package.size_bytes, built=package.built
    )
