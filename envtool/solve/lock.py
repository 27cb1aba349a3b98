"""From environment.yml to conda-lock.yml: solve (conda's packages by py-rattler, wheels by uv), describe, write."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from envtool import console, paths
from envtool.errors import EnvtoolError, Issue, SolveError, SpecError, UnsatisfiableError
from envtool.fetch import credentials
from envtool.fetch.archive_cache import Cache
from envtool.lockfile.conda_lock_v1 import INPUTS_KEY, LINK_SCRIPTS_KEY, SPECS_KEY, VARIABLES_KEY
from envtool.lockfile.model import LockedPackage, Lockfile, file_parts
from envtool.mirrors import selection as mirror_choice
from envtool.solve import conda_solver, content_hash, recorded_inputs
from envtool.solve.conda_solver import PackageRecord, Repodata, SolveRequest
from envtool.solve.content_hash import content_hashes, declared_packages
from envtool.solve.solution import Preference, Solution, SolveErrors, Sources, categories, dependency_edges, hold_most
from envtool.spec import pip_requirements
from envtool.spec import version_policy as policy
from envtool.spec.channel_spec import channel_urls, find_channel, parse
from envtool.spec.environment import Dependency, EnvironmentSpec, PlatformSpec, package_name
from envtool.spec.version_policy import VersionPolicy


def solve(
    spec: EnvironmentSpec, sources: Sources, policy: VersionPolicy, preferences: Mapping[str, Preference] | None = None
) -> list[Solution]:
    """Choose the packages of every platform, all platforms at once. Raises SpecError if a match spec cannot be parsed;
    SolveError if a platform cannot be satisfied; the reasons of all such platforms are in it."""
    refuse_malformed(spec)
    preferred = preferences or {}
    requests = [_request(spec, each, policy, preferred.get(each.platform, Preference())) for each in spec.platforms]
    repodata = sources.repodata
    held = repodata.solve([_holding(each, each.keep) for each in requests])
    # Where not all can be held that are to be kept, the fewest move.
    answers = [
        _moving_least(one, each, repodata) if one.keep and isinstance(each, UnsatisfiableError) else each
        for one, each in zip(requests, held)
    ]
    errors = [each for each in answers if isinstance(each, SolveError)]
    if errors:
        raise errors[0] if len(errors) == 1 else SolveErrors(errors)
    found = [each for each in answers if not isinstance(each, SolveError)]
    solutions = [Solution(each.platform, tuple(records)) for each, records in zip(spec.platforms, found)]
    if not any(each.pip for each in spec.platforms):
        return solutions
    from envtool.solve import pip_solver  # brings uv, and what downloads need

    return pip_solver.add_wheels(spec, solutions, sources, policy, preferred)


def refuse_malformed(spec: EnvironmentSpec) -> None:
    """Raise a `SpecError` that names every line that is not a valid match spec, or whose channel is not listed."""
    lines = dict.fromkeys(dependency for platform in spec.platforms for dependency in platform.conda)
    problems = {each: _problem(spec, each) for each in lines}
    issues = [Issue(each.place, why) for each, why in problems.items() if why]
    if issues:
        names = ", ".join(str(path) for path in spec.paths)
        raise SpecError(names, list(dict.fromkeys(issues)), "python=3.9, numpy>=1.26,<2 and pytorch::pytorch are some")


def _problem(spec: EnvironmentSpec, line: Dependency) -> str | None:
    parsed = parse(line.text)
    reason = conda_solver.match_spec_problem(parsed.text)
    if reason:
        return f"{line.text!r} is not a valid match spec: {reason}"
    if parsed.channel and _channel(spec, line.text) is None:
        channel, *listed = map(credentials.strip, (parsed.channel, *spec.channels))
        wanted = f"{package_name(line.text)} is wanted from the channel {channel}"
        return f"{wanted}, which is not among the channels: {', '.join(listed)}"
    return None


def _channel(spec: EnvironmentSpec, match_spec: str) -> str | None:
    name = package_name(match_spec) or ""
    return find_channel(parse(match_spec), name, spec.channels, spec.directory)


def channels_of(spec: EnvironmentSpec) -> tuple[str, ...]:
    """The URLs of the channels, with the values of the variables in them."""
    return tuple(credentials.expand(url) for each in spec.channels for url in channel_urls(each, spec.directory))


def _moving_least(request: SolveRequest, refused: SolveError, repodata: Repodata) -> list[PackageRecord] | SolveError:
    latest: list[PackageRecord] | SolveError = refused

    def attempts(selections: Sequence[Sequence[str]]) -> list[list[PackageRecord] | None]:
        nonlocal latest
        answers = repodata.solve([_holding(request, urls) for urls in selections])
        latest = answers[-1] if answers else latest
        return [None if isinstance(each, SolveError) else each for each in answers]

    def stays(url: str, records: list[PackageRecord]) -> bool:
        return url in {each.url for each in records}

    asked = {package_name(each) for each in request.match_specs}
    important = [each for each in request.keep if file_parts(each)[0] in asked]
    others = [each for each in request.keep if each not in important]
    found = hold_most(important, others, attempts, stays)
    return latest if found is None else found


def _holding(request: SolveRequest, urls: Sequence[str]) -> SolveRequest:
    held = ("{}[version='=={}',build='{}']".format(*file_parts(each)) for each in urls)
    return replace(request, constraints=(*request.constraints, *held)) if urls else request


def _request(
    spec: EnvironmentSpec, platform: PlatformSpec, policy: VersionPolicy, preference: Preference
) -> SolveRequest:
    match_specs, subdirs = set(), set()
    for each in platform.conda:
        parsed = parse(each.text)
        url = _channel(spec, each.text) if parsed.channel else None
        match_specs.add(parsed.in_channel(url and credentials.expand(url)))
        if parsed.subdir:
            subdirs.add((package_name(each.text) or "", parsed.subdir))
    return SolveRequest(
        platform=platform.platform,
        channels=channels_of(spec),
        # Sorted, so that the order of the lines never decides between two solutions that are equally good.
        match_specs=tuple(sorted(match_specs)),
        subdirs=tuple(sorted(subdirs)),
        virtual_packages=platform.virtual_packages,
        constraints=preference.constraints,
        keep=preference.keep,
        policy=policy,
    )


VIRTUAL_PACKAGES_KEY = "envtool_virtual_packages"


@dataclass(frozen=True)
class LockRequest:
    """What to lock and with which options of the command line; the sources are relative to `lockfile_path`."""

    spec: EnvironmentSpec
    lockfile_path: Path
    options: Mapping[str, str] = field(default_factory=dict)
    preferences: Mapping[str, Preference] = field(default_factory=dict)

    def policy(self, now: datetime | None = None) -> VersionPolicy:
        """Which of the versions that fit. Raises EnvtoolError if the date of exclude-newer is not valid."""
        now = now or datetime.now(timezone.utc)
        text = self.options.get("exclude-newer") or self.spec.exclude_newer
        place = "--exclude-newer" if "exclude-newer" in self.options else f"{self.spec.paths[0]}: exclude-newer"
        moment = policy.cutoff(text, now, place) if text else None
        packages = {
            name.lower(): policy.exception(each, now, f"{place}-package {name}")
            for name, each in self.spec.exclude_newer_package.items()
        }
        channels = {
            credentials.strip(url): policy.exception(each, now, f"{place}-channel {name}")
            for name, each in self.spec.exclude_newer_channel.items()
            for url in channel_urls(name, self.spec.directory)
        }
        return VersionPolicy(self.options.get("strategy", "highest"), moment, packages, channels)


def lock(request: LockRequest, sources: Sources) -> Lockfile:
    """Choose every package of every platform as a lock, which is not written. Raises SpecError or SolveError."""
    complete = with_virtual_packages(request.spec)
    solutions = solve(complete, sources, request.policy(), request.preferences)
    pairs = zip(complete.platforms, solutions)
    return described(request, [package for pair in pairs for package in locked_packages(*pair)])


def described(request: LockRequest, packages: Sequence[LockedPackage]) -> Lockfile:
    """A lock of chosen packages."""
    declared = declared_packages(request.spec)
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
    platforms = [
        replace(each, virtual_packages=content_hash.declared_virtual_packages(each.platform, each.virtual_packages))
        for each in spec.platforms
    ]
    return replace(spec, platforms=tuple(platforms))


def locked_packages(spec: PlatformSpec, solution: Solution) -> list[LockedPackage]:
    """The entries of one platform: one for each package and category."""
    found = categories(spec, solution)
    edges = dependency_edges(solution)
    packages = [
        from_record(each, solution.platform, name) for each in solution.records for name in found["conda", each.name]
    ]
    for wheel in solution.wheels:
        needed = {name: "*" for _, name in edges["pip", wheel.name]}
        whole = replace(wheel, platform=solution.platform, dependencies=needed)
        packages += [replace(whole, category=category) for category in found["pip", wheel.name]]
    return packages


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


def from_record(record: PackageRecord, platform: str, category: str = "main") -> LockedPackage:
    """The entry of a conda package. Raises SolveError if its record has no MD5, which the format demands."""
    if record.md5 is None:
        raise SolveError(
            f"{platform}: {record.url.rpartition('/')[2]} has no md5 in its channel's repodata: "
            "expected one, as the format of the lock demands it",
            "index the channel again: envtool channel index writes both hashes",
        )
    return LockedPackage(
        manager="conda", name=record.name, version=record.version, platform=platform, url=record.url,
        sha256=record.sha256, md5=record.md5, dependencies=_dependencies(record.depends), build=record.build,
        category=category, size_bytes=record.size_bytes,
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


def refusing(platform: PlatformSpec, package: LockedPackage) -> list[Dependency]:
    """The lines that ask for another version or build of a package than the locked one."""
    if package.manager == "conda":
        named = [each for each in platform.conda if package_name(each.text) == package.name]
        return [each for each in named if not fits(each.text, package)]
    lines = (*platform.pip, *platform.pip_constraints)
    named = [each for each in lines if pip_requirements.name_of(each.text) == package.name]
    return [each for each in named if not pip_requirements.allows(each.text, package.version)]


def fits(match_spec: str, package: LockedPackage) -> bool:
    """Whether a match spec takes a conda package."""
    return conda_solver.matches(match_spec, package.name, package.version, package.build_string or "")


@contextmanager
def opened_sources(request: LockRequest) -> Iterator[Sources]:
    """Where packages come from, with the display on which the progress is shown."""
    with console.ProgressDisplay() as display:
        # A file of each channel and platform that has to be read, by which mirrors are chosen.
        channels, platforms = channels_of(request.spec), request.spec.platforms
        urls = [f"{url}/{each.platform}/repodata.json" for url in channels for each in platforms]
        known = mirror_choice.for_urls(urls, Cache(paths.cache()), display)
        yield Sources(Repodata(paths.repodata_cache(), known), known, display)


def update(old: Lockfile, updates: Sequence[str], request: LockRequest, sources: Sources) -> Lockfile:
    """Make a lock that differs from an old one in what is asked for, and in nothing else that need not differ;
    `updates` move though their lines have not changed: package names, or match specs (`numpy=1.26`). Raises
    EnvtoolError if one is neither in the lock nor in environment.yml, SolveError if a platform cannot be satisfied."""
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


def _commits(old: Lockfile, platform: PlatformSpec, moving: Iterable[str]) -> tuple[LockedPackage, ...]:
    """The wheels of commits that stay: what moves a branch is not asked as long as its line is as it was."""
    names = recorded_inputs.unchanged_wheels(old.custom_metadata.get(INPUTS_KEY), platform)
    kept = names - {pip_requirements.name_of(each) for each in moving}
    packages = (package for package in old.packages if package.platform == platform.platform and package.built)
    return tuple(each for each in packages if each.name in kept)


def _preference(
    old: Lockfile, fresh: Sequence[LockedPackage], platform: PlatformSpec, moving: Iterable[str],
    commits: tuple[LockedPackage, ...],
) -> Preference:  # fmt: skip
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
        keep_wheels=(*wheels.values(), *commits),
        constraints=tuple(sorted(exactly)),
        pip_constraints=tuple(sorted(pins)),
    )
