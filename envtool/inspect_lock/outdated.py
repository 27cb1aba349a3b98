"""Locked packages with newer versions: the newest that fits, and what holds back the newest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cmp_to_key

from envtool.fetch import credentials
from envtool.inspect_lock.diff import compare_versions
from envtool.inspect_lock.moves import Key, Reasons
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile
from envtool.solve import conda_solver
from envtool.solve.conda_solver import PackageRecord
from envtool.solve.lock import LockRequest, from_record, lock, with_virtual_packages
from envtool.solve.solution import Sources
from envtool.solve.solve import channels_of
from envtool.spec import pip_requirements
from envtool.spec.environment import PlatformSpec, package_name
from envtool.spec.version_policy import VersionPolicy


@dataclass(frozen=True)
class Outdated:
    """One package that has a newer version.

    Args:
        fits: the newest version that fits with all lines; None when nothing needs the package any more.
        held_by: what holds back the newest, in words; None when it fits.
        is_own: whether a line of environment.yml asks for it.
    """

    manager: str
    name: str
    locked: str
    fits: str | None
    newest: str
    held_by: str | None
    is_own: bool


def outdated(old: Lockfile, request: LockRequest, platform: str, sources: Sources) -> list[Outdated]:
    """The packages of one platform that have a newer version: those of one's own lines first, then by name.

    Raises:
        SolveError: The lines cannot be satisfied, or the records cannot be downloaded.
    """
    (spec,) = (each for each in with_virtual_packages(request.spec).platforms if each.platform == platform)
    here = {(each.manager, each.name): each for each in old.packages if each.platform == platform}
    one = replace(request.spec, platforms=tuple(each for each in request.spec.platforms if each.platform == platform))
    fresh = lock(replace(request, spec=one), sources)
    chosen = {(each.manager, each.name): each for each in fresh.packages}
    newest = _newest_archives(here, request, platform, sources)
    newest.update(_newest_wheels(here, request, spec, chosen, sources))
    reasons = Reasons(newest, chosen, spec)
    own = _own(spec)
    otherwise = (
        "exclude-newer, or what else is asked for" if request.policy() != VersionPolicy() else "what else is asked for"
    )
    found = []
    for key, package in sorted(here.items(), key=lambda item: (item[0] not in own, item[0][1])):
        best, fitting = newest.get(key, package), chosen.get(key)
        if compare_versions(key[0], package.version, best.version) < 0:
            is_held = fitting is None or compare_versions(key[0], fitting.version, best.version) < 0
            held_by = (reasons.of(*key) or otherwise) if is_held else None
            fits = fitting.version if fitting else None
            found.append(Outdated(*key, package.version, fits, best.version, held_by, key in own))
    return found


def _own(spec: PlatformSpec) -> set[tuple[str, str | None]]:
    return {
        *(("conda", package_name(each.text)) for each in spec.conda),
        *(("pip", pip_requirements.name_of(each.text)) for each in spec.pip),
    }


def _newest_archives(
    packages: Mapping[Key, LockedPackage], request: LockRequest, platform: str, sources: Sources
) -> dict[Key, LockedPackage]:
    names = sorted({name for manager, name in packages if manager == "conda"})
    channels = [credentials.strip(each).rstrip("/") + "/" for each in channels_of(request.spec)]
    by_name: dict[str, list[PackageRecord]] = {}
    for record in sources.repodata.find(channels_of(request.spec), platform, names):
        by_name.setdefault(record.name, []).append(record)
    order = cmp_to_key(conda_solver.compare_versions)
    newest: dict[Key, LockedPackage] = {}
    for name, records in by_name.items():
        # A package comes from the first channel that has it.
        place = next((each for each in channels if any(r.url.startswith(each) for r in records)), "")
        best = max((each for each in records if each.url.startswith(place)), key=lambda each: order(each.version))
        newest["conda", name] = from_record(best, platform)
    return newest


def _newest_wheels(
    packages: Mapping[Key, LockedPackage],
    request: LockRequest,
    spec: PlatformSpec,
    fresh: Mapping[Key, LockedPackage],
    sources: Sources,
) -> dict[Key, LockedPackage]:
    by_url = {pip_requirements.name_of(each.text) for each in spec.pip if pip_requirements.url_of(each.text)}
    names = sorted(each.name for key, each in packages.items() if key[0] == "pip" and each.name not in by_url)
    python = fresh.get(("conda", "python"))
    if not names or python is None:
        return {}
    from envtool.pypi import resolve  # brings uv

    wanted = resolve.WheelRequest(
        resolve.Target(spec.platform, python.version, spec.virtual_packages.get("__glibc")),
        tuple(names),
        index_url=request.spec.pip_index,
        extra_index_urls=request.spec.pip_repositories,
        has_dependencies=False,
    )
    chosen = resolve.choose(wanted, sources.mirrors)
    return {("pip", each.name): replace(packages["pip", each.name], version=each.version) for each in chosen}
