"""The wheels of the `pip:` section, chosen for the conda packages of each platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from envtool.errors import SolveError
from envtool.lockfile import git_url
from envtool.lockfile.distribution_names import provided_distributions
from envtool.lockfile.pylock import Wheel
from envtool.pypi import resolve
from envtool.pypi.resolve import Target, WheelRequest
from envtool.solve.conda_solver import PackageRecord
from envtool.solve.solution import Preference, Solution, SolveErrors, Sources
from envtool.spec import pip_requirements
from envtool.spec.environment import EnvironmentSpec, PlatformSpec
from envtool.spec.version_policy import Policy


def add_wheels(
    spec: EnvironmentSpec,
    solutions: Sequence[Solution],
    sources: Sources,
    policy: Policy,
    preferred: Mapping[str, Preference],
) -> list[Solution]:
    """Choose the wheels of every platform, all platforms at once.

    Args:
        spec: What is asked for.
        solutions: The conda packages, in the order of the platforms.
        sources: Where packages come from.
        policy: Which of the versions that fit.
        preferred: What each platform should come to.

    Raises:
        SolveError: A platform cannot be satisfied; the reasons of all such platforms are in it.
    """
    built = _build_wheels(spec, sources, policy, preferred)

    def choose(platform: PlatformSpec, solution: Solution) -> Solution:
        if not platform.pip:
            return solution
        preference = preferred.get(platform.platform, Preference())
        request = _request(spec, platform, solution.records, policy, preference, built)
        return replace(solution, wheels=tuple(resolve.choose(request, sources.mirrors)))

    with ThreadPoolExecutor(len(solutions)) as pool:
        futures = [pool.submit(choose, *each) for each in zip(spec.platforms, solutions)]
        errors = [error for each in futures if isinstance(error := each.exception(), SolveError)]
        if errors:
            raise errors[0] if len(errors) == 1 else SolveErrors(errors)
        return [each.result() for each in futures]


def _build_wheels(
    spec: EnvironmentSpec, sources: Sources, policy: Policy, preferred: Mapping[str, Preference]
) -> dict[str, tuple[Wheel, Path]]:
    """The wheels of all requirements that name a repository, by their text."""
    wanted = {
        each.text: (each, preferred.get(platform.platform, Preference()).keep_wheels)
        for platform in spec.platforms
        for each in platform.pip
        if git_url.is_repository(pip_requirements.url_of(each.text))
    }
    if not wanted:
        return {}
    from envtool.source_builds.git_wheels import GitWheels  # with all that a download and a build need

    git_wheels = GitWheels(spec, sources.mirrors, policy, sources.display)
    built = {text: git_wheels.wheel(each, kept) for text, (each, kept) in wanted.items()}
    return {text: (each.wheel, each.path) for text, each in built.items()}


def _request(
    spec: EnvironmentSpec,
    platform: PlatformSpec,
    records: Sequence[PackageRecord],
    policy: Policy,
    preference: Preference,
    built: Mapping[str, tuple[Wheel, Path]],
) -> WheelRequest:
    return WheelRequest(
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


def _python_version(spec: PlatformSpec, records: Sequence[PackageRecord]) -> str:
    for record in records:
        if record.name == "python":
            return record.version
    raise SolveError(
        f"{spec.platform}: {spec.pip[0].place} starts a pip: section, but python is not among the packages",
        "add python=3.9 to the dependencies",
    )
