"""From an environment specification to the packages of each platform: conda's by py-rattler, wheels by uv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from envtool.errors import Issue, SolveError, SpecError
from envtool.fetch import url_credentials
from envtool.solve import conda_solver
from envtool.solve.conda_solver import SolveRequest
from envtool.solve.solution import Preference, Solution, SolveErrors, Sources
from envtool.spec.environment import EnvironmentSpec, PlatformSpec
from envtool.spec.version_policy import Policy

_CANONICAL_CHANNELS = "https://conda.anaconda.org"
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")


def solve(
    spec: EnvironmentSpec, sources: Sources, policy: Policy, preferences: Mapping[str, Preference] | None = None
) -> list[Solution]:
    """Choose the packages of every platform, all platforms at once.

    Args:
        spec: What is asked for, its virtual packages complete.
        sources: Where packages come from.
        policy: Which of the versions that fit.
        preferences: What each platform should come to.

    Raises:
        SpecError: A match spec cannot be parsed.
        SolveError: A platform cannot be satisfied; the reasons of all such platforms are in it.
    """
    refuse_malformed(spec)
    preferred = preferences or {}
    requests = [_request(spec, each, policy, preferred.get(each.platform, Preference())) for each in spec.platforms]
    answers = sources.repodata.solve(requests)
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
    """Raise a `SpecError` that names every line that is no match spec."""
    lines = dict.fromkeys(dependency for platform in spec.platforms for dependency in platform.conda)
    problems = {each: conda_solver.match_spec_problem(each.text) for each in lines}
    issues = [Issue(each.place, f"{each.text!r} is no match spec: {why}") for each, why in problems.items() if why]
    if issues:
        names = ", ".join(str(path) for path in spec.paths)
        raise SpecError(names, list(dict.fromkeys(issues)), "python=3.9, numpy>=1.26,<2 and pytorch::pytorch are some")


def repodata_urls(spec: EnvironmentSpec) -> list[str]:
    """A file of each channel and platform that has to be read, by which mirrors are chosen."""
    return [f"{url}/{each.platform}/repodata.json" for url in channels_of(spec) for each in spec.platforms]


def channels_of(spec: EnvironmentSpec) -> tuple[str, ...]:
    """The URLs of the channels, with the values of the variables in them."""
    urls = (url for channel in spec.channels for url in channel_urls(channel, spec.directory))
    return tuple(url_credentials.expand(url) for url in urls)


def channel_urls(channel: str, base: Path) -> Sequence[str]:
    """The URLs of a channel as a user names it: a name, a URL or a path relative to the file that names it."""
    if channel == "defaults":
        return _DEFAULTS
    if "://" in channel:
        return (channel.rstrip("/"),)
    if channel.startswith((".", "/", "~")):
        return ((base / Path(channel).expanduser()).resolve().as_uri(),)
    return (f"{_CANONICAL_CHANNELS}/{channel}",)


def _request(spec: EnvironmentSpec, platform: PlatformSpec, policy: Policy, preference: Preference) -> SolveRequest:
    return SolveRequest(
        platform=platform.platform,
        channels=channels_of(spec),
        # Sorted, so that the order of the lines never decides between two solutions that are equally good.
        match_specs=tuple(sorted({each.text for each in platform.conda})),
        virtual_packages=platform.virtual_packages,
        constraints=preference.constraints,
        keep=preference.keep,
        policy=policy,
    )
