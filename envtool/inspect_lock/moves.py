"""Packages that moved from one lock to the next, or did not, or are outdated, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cmp_to_key
from itertools import chain
from typing import NamedTuple

from envtool.errors import EnvtoolError, SolveError
from envtool.fetch import credentials
from envtool.inspect_lock import diff
from envtool.inspect_lock.diff import Difference, compare_versions
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile
from envtool.solve import conda_solver
from envtool.solve import lock as locking
from envtool.solve.conda_solver import PackageRecord, Repodata
from envtool.solve.conflicts import explained
from envtool.solve.lock import LockRequest
from envtool.solve.solution import Sources
from envtool.spec import pip_requirements
from envtool.spec.environment import Dependency, PlatformSpec, package_name
from envtool.spec.version_policy import VersionPolicy

Key = tuple[str, str]
Packages = Mapping[Key, LockedPackage]


class Move(NamedTuple):
    """A package of which a lock has another version or build than the one before."""

    difference: Difference
    reason: str

    def __str__(self) -> str:
        each = self.difference
        return f"{each.name} {each.before} → {each.after}: {self.reason}"


def moves(
    old: Lockfile, new: Lockfile, request: LockRequest, repodata: Repodata, named: Sequence[str] = ()
) -> list[Move]:
    """Every package that moved, with the reason (`named`: the packages that the user asked to move)."""
    platforms = {platform.platform: platform for platform in locking.with_virtual_packages(request.spec).platforms}
    found = []
    for each in diff.compare(old, new, diff.compare_versions):
        if each.before and each.after:
            spec = platforms[each.platforms[0]]
            reasons = Reasons(old.of(spec.platform), new.of(spec.platform), spec, named)
            reason = reasons.of(each.manager, each.name) or _last_reason(reasons, each, request, repodata)
            found.append(Move(each, reason))
    return found


class Reasons(NamedTuple):
    """Why packages of one set cannot be in another, as far as the sets and the sources tell by themselves."""

    before: Packages
    after: Packages
    platform: PlatformSpec
    named: Sequence[str] = ()

    def of(self, manager: str, name: str) -> str | None:
        """The first reason that holds, the user's own words before all others."""
        old = self.before[manager, name]
        if old.name in self.named:
            return "asked for"
        lines = (f"{each.place} asks for {each.text}" for each in locking.refusing(self.platform, old))
        return next(chain(lines, self._by_conda(old) if old.manager == "conda" else self._by_pip(old)), None)

    def _by_conda(self, old: LockedPackage) -> Iterator[str]:
        for package in self.after.values():
            needed = package.dependencies.get(old.name)
            if package.manager == "conda" and needed and not locking.fits(f"{old.name} {needed}", old):
                yield f"{package.name} {package.version} needs {old.name} {needed}"
        for name, needed in old.dependencies.items():
            other = self.after.get(("conda", name))
            if other and needed != "*" and not locking.fits(f"{name} {needed}", other):
                yield f"{old.name} {old.version} needs {name} {needed}, which is {other.version}"
            elif name.startswith("__"):
                version, _, build = self.platform.virtual_packages.get(name, "").partition(" ")
                if not version or not conda_solver.matches(f"{name} {needed}", name, version, build or "0"):
                    yield f"{old.name} {old.version} needs {name} {needed}, which is not declared"

    def _by_pip(self, old: LockedPackage) -> Iterator[str]:
        python, was = self.after.get(("conda", "python")), self.before.get(("conda", "python"))
        if python and was and python.version != was.version:
            yield f"python is {python.version}"
        for package in self.after.values():
            former = self.before.get((package.manager, package.name))
            is_new = former is None or former.version != package.version
            if is_new and old.name in package.dependencies:
                yield f"{package.name} {package.version} does not fit with {old.version}"


def _last_reason(reasons: Reasons, moved: Difference, request: LockRequest, repodata: Repodata) -> str:
    """A reason that only the channels can tell."""
    old = reasons.before[moved.manager, moved.name]
    if old.manager == "conda":
        channels = locking.channels_of(request.spec)
        if not any(old.url.startswith(credentials.strip(channel).rstrip("/") + "/") for channel in channels):
            return "its channel is not listed any more"
        changed = [key[1] for key, new in reasons.after.items() if key[0] == "conda" and new != reasons.before.get(key)]
        try:
            records = repodata.find(channels, old.platform, sorted({*changed, old.name}))
        except EnvtoolError:
            records = []
        if not any(each.url == old.url for each in records):
            return "its channel has it no more"
        chosen = {each.url for each in reasons.after.values()}
        for record in records:
            bounds = [constraint for constraint in record.constrains if package_name(constraint) == old.name]
            if record.url in chosen and not all(locking.fits(bound, old) for bound in bounds):
                return f"{record.name} {record.version} does not go with it: {', '.join(bounds)}"
    if request.policy().exclude_newer:
        return "exclude-newer, or what moved with it"
    return "it does not fit with what was added or changed"


def why_not(
    text: str, old: Lockfile, request: LockRequest, platform: str, sources: Sources
) -> tuple[str | None, tuple[Move, ...]]:
    """Ask for one more line: what holds it back, or None and what would move. Raises EnvtoolError or SpecError."""
    name = locking.package_of(text)
    here = old.of(platform)
    is_wheel = ("conda", name) not in here and ("pip", pip_requirements.name_of(name)) in here
    (spec,) = (each for each in request.spec.platforms if each.platform == platform)
    if is_wheel:
        bound = Dependency(locking.pip_bound(name, text), "why-not")
        spec = replace(spec, pip_constraints=(*spec.pip_constraints, bound))
    else:
        spec = replace(spec, conda=(*spec.conda, Dependency(text, "why-not")))
    asked = replace(request, spec=replace(request.spec, platforms=(spec,)))
    locking.refuse_malformed(asked.spec)
    one = replace(old, packages=tuple(package for package in old.packages if package.platform == platform))
    try:
        with explained(asked, sources):
            new = locking.update(one, (), asked, sources)
    except SolveError as error:
        return error.message, ()
    return None, tuple(moves(one, new, asked, sources.repodata))


class Outdated(NamedTuple):
    """One package that has a newer version."""

    manager: str
    name: str
    locked: str
    fits: str | None  # the newest version that fits with all lines; None when nothing needs the package any more
    newest: str
    held_by: str | None  # what holds back the newest, in words; None when it fits
    is_own: bool  # whether a line of environment.yml asks for it


def outdated(old: Lockfile, request: LockRequest, platform: str, sources: Sources) -> list[Outdated]:
    """The packages of a platform that have a newer version, those of one's own lines first. Raises SolveError."""
    (spec,) = (each for each in locking.with_virtual_packages(request.spec).platforms if each.platform == platform)
    here = old.of(platform)
    one = replace(request.spec, platforms=tuple(each for each in request.spec.platforms if each.platform == platform))
    fresh = locking.lock(replace(request, spec=one), sources)
    chosen = fresh.of(platform)
    newest = _newest_archives(here, request, platform, sources)
    newest.update(_newest_wheels(here, request, spec, chosen, sources))
    reasons = Reasons(newest, chosen, spec)
    own = {("conda", package_name(each.text)) for each in spec.conda}
    own |= {("pip", pip_requirements.name_of(each.text)) for each in spec.pip}
    otherwise = ("" if request.policy() == VersionPolicy() else "exclude-newer, or ") + "what else is asked for"
    found = []
    for key, package in sorted(here.items(), key=lambda item: (item[0] not in own, item[0][1])):
        best, fitting = newest.get(key, package), chosen.get(key)
        if compare_versions(key[0], package.version, best.version) < 0:
            is_held = fitting is None or compare_versions(key[0], fitting.version, best.version) < 0
            held_by = (reasons.of(*key) or otherwise) if is_held else None
            fits = fitting.version if fitting else None
            found.append(Outdated(*key, package.version, fits, best.version, held_by, key in own))
    return found


def _newest_archives(
    packages: Packages, request: LockRequest, platform: str, sources: Sources
) -> dict[Key, LockedPackage]:
    names = sorted({name for manager, name in packages if manager == "conda"})
    channels = [credentials.strip(each).rstrip("/") + "/" for each in locking.channels_of(request.spec)]
    by_name: dict[str, list[PackageRecord]] = {}
    for record in sources.repodata.find(locking.channels_of(request.spec), platform, names):
        by_name.setdefault(record.name, []).append(record)
    order = cmp_to_key(conda_solver.compare_versions)
    newest: dict[Key, LockedPackage] = {}
    for name, records in by_name.items():
        # A package comes from the first channel that has it.
        place = next((channel for channel in channels if any(r.url.startswith(channel) for r in records)), "")
        best = max((each for each in records if each.url.startswith(place)), key=lambda each: order(each.version))
        newest["conda", name] = locking.from_record(best, platform)
    return newest


def _newest_wheels(
    packages: Packages, request: LockRequest, spec: PlatformSpec, fresh: Packages, sources: Sources
) -> dict[Key, LockedPackage]:
    by_url = {pip_requirements.name_of(each.text) for each in spec.pip if pip_requirements.url_of(each.text)}
    names = sorted(each.name for key, each in packages.items() if key[0] == "pip" and each.name not in by_url)
    python = fresh.get(("conda", "python"))
    if not names or python is None:
        return {}
    from envtool.pypi import resolve  # brings uv

    wanted = resolve.WheelRequest(
        resolve.Target(spec.platform, python.version, spec.virtual_packages.get("__glibc")), tuple(names),
        index_url=request.spec.pip_index, extra_index_urls=request.spec.pip_repositories, has_dependencies=False,
    )  # fmt: skip
    chosen = resolve.choose(wanted, sources.mirrors)
    return {("pip", each.name): replace(packages["pip", each.name], version=each.version) for each in chosen}
