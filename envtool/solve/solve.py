"""From an environment specification to the packages of each platform: conda's by py-rattler, wheels by uv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from envtool.errors import Issue, SolveError, SpecError, UnsatisfiableError
from envtool.fetch import credentials
from envtool.lockfile.model import file_parts
from envtool.solve import conda_solver
from envtool.solve.conda_solver import PackageRecord, Repodata, SolveRequest
from envtool.solve.settle import hold_most
from envtool.solve.solution import Preference, Solution, SolveErrors, Sources
from envtool.spec import channel_spec
from envtool.spec.channel_spec import channel_urls
from envtool.spec.environment import Dependency, EnvironmentSpec, PlatformSpec, package_name
from envtool.spec.version_policy import VersionPolicy


def solve(
    spec: EnvironmentSpec, sources: Sources, policy: VersionPolicy, preferences: Mapping[str, Preference] | None = None
) -> list[Solution]:
    """Choose the packages of every platform, all platforms at once.

    Raises:
        SpecError: A match spec cannot be parsed.
        SolveError: A platform cannot be satisfied; the reasons of all such platforms are in it.
    """
    refuse_malformed(spec)
    preferred = preferences or {}
    requests = [_request(spec, each, policy, preferred.get(each.platform, Preference())) for each in spec.platforms]
    answers = _with_fewest_moves(requests, sources.repodata)
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
    parsed = channel_spec.parse(line.text)
    reason = conda_solver.match_spec_problem(parsed.text)
    if reason:
        return f"{line.text!r} is not a valid match spec: {reason}"
    if parsed.channel and _channel(spec, line.text) is None:
        listed = ", ".join(map(credentials.strip, spec.channels))
        shown = credentials.strip(parsed.channel)
        return (
            f"{package_name(line.text)} is wanted from the channel {shown}, which is not among the channels: {listed}"
        )
    return None


def _channel(spec: EnvironmentSpec, match_spec: str) -> str | None:
    name = package_name(match_spec) or ""
    return channel_spec.find_channel(channel_spec.parse(match_spec), name, spec.channels, spec.directory)


def _for_solver(spec: EnvironmentSpec, match_spec: str) -> str:
    parsed = channel_spec.parse(match_spec)
    url = _channel(spec, match_spec) if parsed.channel else None
    return parsed.in_channel(url and credentials.expand(url))


def repodata_urls(spec: EnvironmentSpec) -> list[str]:
    """A file of each channel and platform that has to be read, by which mirrors are chosen."""
    return [f"{url}/{each.platform}/repodata.json" for url in channels_of(spec) for each in spec.platforms]


def channels_of(spec: EnvironmentSpec) -> tuple[str, ...]:
    """The URLs of the channels, with the values of the variables in them."""
    urls = (url for channel in spec.channels for url in channel_urls(channel, spec.directory))
    return tuple(credentials.expand(url) for url in urls)


def _with_fewest_moves(requests: Sequence[SolveRequest], repodata: Repodata) -> list[list[PackageRecord] | SolveError]:
    """The answers that move the fewest of the archives that are to be kept."""
    answers = repodata.solve([_holding(each, each.keep) for each in requests])
    return [
        _moving_least(request, answer, repodata) if request.keep and isinstance(answer, UnsatisfiableError) else answer
        for request, answer in zip(requests, answers)
    ]


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
    subdirs = ((package_name(each.text) or "", channel_spec.parse(each.text).subdir) for each in platform.conda)
    return SolveRequest(
        platform=platform.platform,
        channels=channels_of(spec),
        # Sorted, so that the order of the lines never decides between two solutions that are equally good.
        match_specs=tuple(sorted({_for_solver(spec, each.text) for each in platform.conda})),
        subdirs=tuple(sorted({(name, subdir) for name, subdir in subdirs if subdir})),
        virtual_packages=platform.virtual_packages,
        constraints=preference.constraints,
        keep=preference.keep,
        policy=policy,
    )
