"""From an environment specification to the packages of each platform: conda's by py-rattler, wheels by uv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from envtool.building import repository
from envtool.errors import Issue, SolveError, SpecError
from envtool.fetching import credentials
from envtool.locking import conda, requirements, wheels
from envtool.locking.conda import PackageRecord, Repodata, SolveRequest
from envtool.locking.policy import Policy
from envtool.locking.pylock import Wheel
from envtool.locking.spec import EnvironmentSpec, PlatformSpec
from envtool.locking.wheels import Target, WheelRequest
from envtool.mirroring.mirrors import Mirrors
from envtool.report import Display

_CANONICAL_CHANNELS = "https://conda.anaconda.org"
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
# Distributions that go by another name on conda; everywhere else the names are the same.
_DISTRIBUTION_NAMES = {"pytorch": "torch", "pytorch-cpu": "torch", "pytorch-gpu": "torch"}


@dataclass(frozen=True)
class Preference:
    """What a solve of one platform should come to, beside what is asked for.

    Args:
        keep: Canonical URLs of archives that stay unless something asked for forbids it.
        keep_wheels: Wheels that stay in the same way.
        constraints: Match specs that bound packages.
        pip_constraints: The same for wheels.
    """

    keep: tuple[str, ...] = ()
    keep_wheels: tuple[Wheel, ...] = ()
    constraints: tuple[str, ...] = ()
    pip_constraints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sources:
    """Where packages come from.

    Args:
        repodata: The records of the channels.
        mirrors: The mirrors of this machine.
        display: Where the progress of builds is shown.
    """

    repodata: Repodata
    mirrors: Mirrors = field(default_factory=Mirrors)
    display: Display = field(default_factory=Display)


@dataclass(frozen=True)
class Solution:
    """The packages of one platform.

    Args:
        platform: The subdir.
        records: The conda packages, sorted by name.
        wheels: The wheels of the `pip:` section, sorted by name.
    """

    platform: str
    records: tuple[PackageRecord, ...]
    wheels: tuple[Wheel, ...] = ()


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
    built = _build_wheels(spec, sources, policy, preferred)
    with ThreadPoolExecutor(len(found)) as pool:
        futures = [
            pool.submit(_add_wheels, spec, platform, records, sources.mirrors, policy, preference, built)
            for platform, records in zip(spec.platforms, found)
            for preference in [preferred.get(platform.platform, Preference())]
        ]
        errors = [error for each in futures if isinstance(error := each.exception(), SolveError)]
        if errors:
            raise errors[0] if len(errors) == 1 else SolveErrors(errors)
        return [each.result() for each in futures]


class SolveErrors(SolveError):
    """Several platforms that cannot be satisfied.

    Args:
        errors: Their errors, in the order of the platforms.
    """

    def __init__(self, errors: Sequence[SolveError]) -> None:
        super().__init__("\n".join(each.message for each in errors), errors[0].hint)
        self.errors = tuple(errors)


def refuse_malformed(spec: EnvironmentSpec) -> None:
    """Raise a `SpecError` that names every line that is no match spec."""
    lines = dict.fromkeys(dependency for platform in spec.platforms for dependency in platform.conda)
    problems = {each: conda.match_spec_problem(each.text) for each in lines}
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
    return tuple(credentials.expand(url) for url in urls)


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


def _build_wheels(
    spec: EnvironmentSpec, sources: Sources, policy: Policy, preferred: Mapping[str, Preference]
) -> dict[str, tuple[Wheel, Path]]:
    """The wheels of all requirements that name a repository, by their text."""
    wanted = {
        each.text: (each, preferred.get(platform.platform, Preference()).keep_wheels)
        for platform in spec.platforms
        for each in platform.pip
        if repository.is_repository(requirements.url_of(each.text))
    }
    if not wanted:
        return {}
    from envtool.building.git_wheels import GitWheels  # with all that a download and a build need

    git_wheels = GitWheels(spec, sources.mirrors, policy, sources.display)
    built = {text: git_wheels.wheel(each, kept) for text, (each, kept) in wanted.items()}
    return {text: (each.wheel, each.path) for text, each in built.items()}


def _add_wheels(
    spec: EnvironmentSpec,
    platform: PlatformSpec,
    records: Sequence[PackageRecord],
    mirrors: Mirrors,
    policy: Policy,
    preference: Preference,
    built: Mapping[str, tuple[Wheel, Path]],
) -> Solution:
    if not platform.pip:
        return Solution(platform.platform, tuple(records))
    request = WheelRequest(
        target=Target(platform.platform, _python_version(platform, records), platform.virtual_packages.get("__glibc")),
        requirements=tuple(sorted({each.text for each in platform.pip})),
        constraints=(*sorted({each.text for each in platform.pip_constraints}), *preference.pip_constraints),
        provided=provided_distributions(records),
        index_url=spec.pip_index,
        extra_index_urls=spec.pip_repositories,
        allows_prereleases=spec.allows_prereleases,
        keep=preference.keep_wheels,
        policy=policy,
        built={built[each.text][0].name: built[each.text] for each in platform.pip if each.text in built},
    )
    return Solution(platform.platform, tuple(records), tuple(wheels.choose(request, mirrors)))


def provided_distributions(records: Sequence[PackageRecord]) -> Mapping[str, str]:
    """The Python distributions that conda packages bring, name to version."""
    brought = (each for each in records if any(spec.split()[0] in ("python", "python_abi") for spec in each.depends))
    return {distribution_name(each.name): each.version for each in brought}


def distribution_name(conda_name: str) -> str:
    """The normalized name that a conda package has among Python distributions."""
    return _DISTRIBUTION_NAMES.get(conda_name, conda_name).replace("_", "-").replace(".", "-")


def _python_version(spec: PlatformSpec, records: Sequence[PackageRecord]) -> str:
    for record in records:
        if record.name == "python":
            return record.version
    raise SolveError(
        f"{spec.platform}: {spec.pip[0].place} starts a pip: section, but python is not among the packages",
        "add python=3.9 to the dependencies",
    )
