"""From environment.yml to conda-lock.yml: solve, describe, write.

The rule is conda-lock's: what `main` needs is `main` only; anything else has an entry for each category that needs it.
Source: conda_lock/lockfile/__init__.py, `apply_categories`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.errors import SolveError
from envtool.fetch import credentials
from envtool.lockfile.conda_lock_v1 import (
    INPUTS_KEY,
    LINK_SCRIPTS_KEY,
    SPECS_KEY,
    VARIABLES_KEY,
    LockedPackage,
    Lockfile,
)
from envtool.solve import conda_solver, content_hash, recorded_inputs
from envtool.solve.conda_solver import PackageRecord
from envtool.solve.content_hash import content_hashes
from envtool.solve.solution import Preference, Solution, Sources
from envtool.solve.solve import channel_urls, solve
from envtool.spec import pip_requirements
from envtool.spec import version_policy as policy
from envtool.spec.environment import Dependency, EnvironmentSpec, PlatformSpec, package_name
from envtool.spec.version_policy import VersionPolicy

if TYPE_CHECKING:
    from envtool.lockfile.pylock import Wheel

Key = tuple[str, str]


def categories(spec: PlatformSpec, solution: Solution) -> dict[Key, tuple[str, ...]]:
    """The categories of every package of a solution, by (manager, name)."""
    edges = dependency_edges(solution)
    by_category: dict[str, set[Key]] = {}
    for category, roots in _roots(spec, solution).items():
        by_category[category] = _reachable(roots, edges)
    main = by_category.get("main", set())
    found = {}
    for key in edges:
        others = tuple(sorted(category for category, keys in by_category.items() if key in keys))
        found[key] = ("main",) if key in main or not others else others
    return found


def dependency_edges(solution: Solution) -> dict[Key, tuple[Key, ...]]:
    """What each package of a solution needs, by (manager, name); virtual packages are left out."""
    conda = {each.name for each in solution.records}
    by_distribution = _by_distribution(solution)
    edges: dict[Key, tuple[Key, ...]] = {}
    for record in solution.records:
        names = dict.fromkeys(spec.split()[0].lower() for spec in record.depends)
        edges["conda", record.name] = tuple(("conda", name) for name in names if name in conda)
    for wheel in solution.wheels:
        edges["pip", wheel.name] = tuple(by_distribution[name] for name in wheel.needs if name in by_distribution)
    return edges


def _by_distribution(solution: Solution) -> dict[str, Key]:
    found = {distribution: ("conda", name) for distribution, name in solution.provided.items()}
    return {**found, **{each.name: ("pip", each.name) for each in solution.wheels}}


def _roots(spec: PlatformSpec, solution: Solution) -> dict[str, list[Key]]:
    by_distribution = _by_distribution(solution)
    roots: dict[str, list[Key]] = {}
    for dependency in spec.conda:
        roots.setdefault(dependency.category, []).append(("conda", package_name(dependency.text) or ""))
    for dependency in spec.pip:
        key = by_distribution.get(pip_requirements.name_of(dependency.text) or "")
        if key is not None:  # a marker may have taken it away
            roots.setdefault(dependency.category, []).append(key)
    return roots


def _reachable(roots: Iterable[Key], edges: Mapping[Key, tuple[Key, ...]]) -> set[Key]:
    seen: set[Key] = set()
    todo = list(roots)
    while todo:
        key = todo.pop()
        if key in edges and key not in seen:
            seen.add(key)
            todo += edges[key]
    return seen


VIRTUAL_PACKAGES_KEY = "envtool_virtual_packages"


@dataclass(frozen=True)
class LockRequest:
    """What to lock and with which options of the command line; the sources are relative to `lockfile_path`."""

    spec: EnvironmentSpec
    lockfile_path: Path
    options: Mapping[str, str] = field(default_factory=dict)
    preferences: Mapping[str, Preference] = field(default_factory=dict)

    def policy(self, now: datetime | None = None) -> VersionPolicy:
        """Which of the versions that fit.

        Raises:
            EnvtoolError: The date of exclude-newer is not valid.
        """
        now = now or datetime.now(timezone.utc)
        text = self.options.get("exclude-newer") or self.spec.exclude_newer
        place = "--exclude-newer" if "exclude-newer" in self.options else f"{self.spec.paths[0]}: exclude-newer"
        moment = policy.cutoff(text, now, place) if text else None
        return VersionPolicy(
            self.options.get("strategy", "highest"),
            moment,
            {
                name.lower(): policy.exception(each, now, f"{place}-package {name}")
                for name, each in self.spec.exclude_newer_package.items()
            },
            {
                credentials.strip(url): policy.exception(each, now, f"{place}-channel {name}")
                for name, each in self.spec.exclude_newer_channel.items()
                for url in channel_urls(name, self.spec.directory)
            },
        )


def lock(request: LockRequest, sources: Sources) -> Lockfile:
    """Choose every package of every platform and describe them as a lock; nothing is written.

    Raises:
        SpecError: A line of the sources cannot be used.
        SolveError: A platform cannot be satisfied.
    """
    complete = with_virtual_packages(request.spec)
    solutions = solve(complete, sources, request.policy(), request.preferences)
    packages = [
        package
        for platform, solution in zip(complete.platforms, solutions)
        for package in locked_packages(platform, solution)
    ]
    return described(request, packages)


def described(request: LockRequest, packages: Sequence[LockedPackage]) -> Lockfile:
    """A lock of chosen packages."""
    declared = {each.platform: each.virtual_packages for each in with_virtual_packages(request.spec).platforms}
    unknown = sorted(set(request.spec.run_link_scripts) - {each.name for each in packages if each.manager == "conda"})
    if unknown:
        raise SolveError(
            f"{request.spec.paths[0]}: run-link-scripts names {', '.join(unknown)}, not a conda package of the lock",
            "take it out, or add the package to the dependencies",
        )
    relative_to = request.lockfile_path.resolve().parent
    return Lockfile(
        packages=tuple(sorted(packages, key=lambda package: package.sort_key)),
        channels=request.spec.channels,
        platforms=tuple(sorted(declared)),
        sources=tuple(os.path.relpath(path.resolve(), relative_to) for path in request.spec.paths),
        content_hash=content_hashes(request.spec, declared),
        custom_metadata=_metadata(request, declared),
    )


def with_virtual_packages(spec: EnvironmentSpec) -> EnvironmentSpec:
    """The specification with the virtual packages that it assumes beside those that it declares."""
    platforms = (
        replace(each, virtual_packages=content_hash.declared_virtual_packages(each.platform, each.virtual_packages))
        for each in spec.platforms
    )
    return replace(spec, platforms=tuple(platforms))


def locked_packages(spec: PlatformSpec, solution: Solution) -> list[LockedPackage]:
    """The entries of one platform: one for each package and category."""
    found = categories(spec, solution)
    edges = dependency_edges(solution)
    packages = [from_record(record, solution.platform) for record in solution.records]
    packages += [_from_wheel(wheel, solution.platform, edges["pip", wheel.name]) for wheel in solution.wheels]
    return [replace(each, category=name) for each in packages for name in found[each.manager, each.name]]


def _metadata(request: LockRequest, declared: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    from importlib.metadata import version

    spec = request.spec
    match_specs = {each.platform: sorted({dependency.text for dependency in each.conda}) for each in spec.platforms}
    metadata = {
        "created_by": f"envtool {version('envserve')}",
        INPUTS_KEY: recorded_inputs.serialize(spec, request.options),
        SPECS_KEY: json.dumps(match_specs, sort_keys=True),
        VIRTUAL_PACKAGES_KEY: json.dumps(declared, sort_keys=True),
    }
    if spec.run_link_scripts:
        metadata[LINK_SCRIPTS_KEY] = json.dumps(spec.run_link_scripts)
    if spec.variables:
        metadata[VARIABLES_KEY] = json.dumps(spec.variables, sort_keys=True)
    return metadata


def from_record(record: PackageRecord, platform: str) -> LockedPackage:
    """The entry of a conda package.

    Raises:
        SolveError: Its record has no MD5, which the format demands.
    """
    if record.md5 is None:
        raise SolveError(
            f"{platform}: {record.url.rpartition('/')[2]} has no md5 in its channel's repodata: "
            "expected one, as the format of the lock demands it",
            "index the channel again: envtool channel index writes both hashes",
        )
    return LockedPackage(
        manager="conda", name=record.name, version=record.version, platform=platform, url=record.url,
        sha256=record.sha256, md5=record.md5, dependencies=_dependencies(record.depends), build=record.build,
        size_bytes=record.size_bytes,
    )  # fmt: skip


def _dependencies(depends: Sequence[str]) -> dict[str, str]:
    # A record may name a package twice (`python >=3.9` and `python`, or a build besides a range). The format has room
    # for one constraint: ranges are joined, and one with a build string wins, since it is the narrowest.
    found: dict[str, str] = {}
    for spec in depends:
        name, _, constraint = spec.partition(" ")
        before = found.get(name, "")
        if not before or " " in constraint:
            found[name] = constraint or before
        elif constraint and constraint != before and " " not in before:
            found[name] = f"{before},{constraint}"
    return found


def _from_wheel(wheel: Wheel, platform: str, needs: Sequence[tuple[str, str]]) -> LockedPackage:
    return LockedPackage(
        manager="pip", name=wheel.name, version=wheel.version, platform=platform, url=wheel.url, sha256=wheel.sha256,
        dependencies={name: "*" for _, name in needs}, size_bytes=wheel.size_bytes, built=wheel.built,
    )  # fmt: skip


def refusing(platform: PlatformSpec, package: LockedPackage) -> list[Dependency]:
    """The lines that ask for another version or build of a package than the locked one."""
    if package.manager == "conda":
        return [
            each for each in platform.conda if package_name(each.text) == package.name and not fits(each.text, package)
        ]
    lines = (*platform.pip, *platform.pip_constraints)
    own = [each for each in lines if pip_requirements.name_of(each.text) == package.name]
    return [each for each in own if not pip_requirements.allows(each.text, package.version)]


def fits(match_spec: str, package: LockedPackage) -> bool:
    """Whether a match spec takes a conda package."""
    return conda_solver.matches(match_spec, package.name, package.version, package.build_string or "")
