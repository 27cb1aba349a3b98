"""The wheels of the `pip:` section, chosen for the conda packages of each platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from envtool import paths
from envtool.artifacts.download import archive_at_hand, find_archive
from envtool.errors import SolveError
from envtool.fetch.archive_cache import Cache
from envtool.lockfile import git_url
from envtool.lockfile.pylock import Wheel
from envtool.mirrors import selection
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import resolve
from envtool.pypi.distributions import DISTRIBUTION_NAMES, distributions_in, normalize, provided_distributions
from envtool.pypi.resolve import Target, WheelRequest
from envtool.solve.conda_solver import PackageRecord
from envtool.solve.solution import Preference, Solution, SolveErrors, Sources, hold_most
from envtool.spec import pip_requirements
from envtool.spec.environment import EnvironmentSpec, PlatformSpec
from envtool.spec.version_policy import VersionPolicy

_AT_ONCE = 4  # runs of uv
_MIN_SUSPECT_NAME = 3
_MAX_SUSPECT_BYTES = 50_000_000


def add_wheels(
    spec: EnvironmentSpec,
    solutions: Sequence[Solution],
    sources: Sources,
    policy: VersionPolicy,
    preferred: Mapping[str, Preference],
) -> list[Solution]:
    """Choose the wheels of every platform, all platforms at once.

    Args:
        solutions: the conda packages, in the order of the platforms.

    Raises:
        SolveError: A platform cannot be satisfied; the reasons of all such platforms are in it.
    """
    built = _build_wheels(spec, sources, policy, preferred)

    def choose(platform: PlatformSpec, solution: Solution) -> Solution:
        if not platform.pip:
            return solution
        preference = preferred.get(platform.platform, Preference())
        request = _request(spec, platform, solution.records, policy, preference, built)
        chosen = _with_fewest_moves(request, sources.mirrors)
        if _look_into_suspects(chosen, request, solution.records, sources.mirrors):
            request = _request(spec, platform, solution.records, policy, preference, built)
            chosen = _with_fewest_moves(request, sources.mirrors)
        provided = {name: each.record.name for name, each in request.provided.items()}
        return replace(solution, wheels=tuple(chosen), provided=provided)

    with ThreadPoolExecutor(len(solutions)) as pool:
        futures = [pool.submit(choose, *each) for each in zip(spec.platforms, solutions)]
        errors = [error for each in futures if isinstance(error := each.exception(), SolveError)]
        if errors:
            raise errors[0] if len(errors) == 1 else SolveErrors(errors)
        return [each.result() for each in futures]


def _with_fewest_moves(request: WheelRequest, mirrors: Mirrors) -> list[Wheel]:
    """The wheels that move the fewest of those that are to be kept."""
    kept = [each for each in request.keep if not each.built and each.name not in request.provided]
    request = replace(request, keep=tuple(kept))
    refused: list[SolveError] = []

    def attempt(held: Sequence[Wheel]) -> list[Wheel] | None:
        pins = tuple(f"{each.name}=={each.version}" for each in held)
        try:
            return resolve.choose(replace(request, constraints=(*request.constraints, *pins)), mirrors)
        except SolveError as error:
            refused.append(error)
            return None

    found = attempt(kept)
    if found is None and kept and not selection.is_index_failure(refused[0].message):
        asked = {pip_requirements.name_of(each) for each in request.requirements}
        important = [each for each in kept if each.name in asked]
        others = [each for each in kept if each.name not in asked]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = hold_most(
                important,
                others,
                lambda selections: list(pool.map(attempt, selections)),
                lambda each, chosen: (each.name, each.version) in {(wheel.name, wheel.version) for wheel in chosen},
            )
    if found is None:
        raise refused[-1]
    return found


def _build_wheels(
    spec: EnvironmentSpec, sources: Sources, policy: VersionPolicy, preferred: Mapping[str, Preference]
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
    policy: VersionPolicy,
    preference: Preference,
    built: Mapping[str, tuple[Wheel, Path]],
) -> WheelRequest:
    return WheelRequest(
        target=Target(platform.platform, _python_version(platform, records), platform.virtual_packages.get("__glibc")),
        requirements=tuple(sorted({each.text for each in platform.pip})),
        constraints=(*sorted({each.text for each in platform.pip_constraints}), *preference.pip_constraints),
        provided=provided_distributions(records, Cache(paths.cache())), index_url=spec.pip_index,
        extra_index_urls=spec.pip_repositories, allows_default_index=spec.allows_default_index,
        allows_prereleases=spec.allows_prereleases, requires_hashes=spec.requires_hashes, keep=preference.keep_wheels,
        policy=policy,
        built={built[each.text][0].name: built[each.text] for each in platform.pip if each.text in built},
    )  # fmt: skip


def _look_into_suspects(
    chosen: Sequence[Wheel], request: WheelRequest, records: Sequence[PackageRecord], mirrors: Mirrors
) -> bool:
    """Fetch archives that may be a chosen distribution under another name (foo-base, pyfoo); whether one is."""
    cache = Cache(paths.cache())
    names = {each.name for each in chosen if len(each.name) >= _MIN_SUSPECT_NAME}
    suspects = [
        each
        for each in records
        if any(name in each.name for name in names)
        and normalize(each.name) not in DISTRIBUTION_NAMES
        and (each.size_bytes or 0) <= _MAX_SUSPECT_BYTES
        and archive_at_hand(each, cache) is None
    ]
    found = [path for each in suspects if (path := find_archive(each, cache, mirrors))]
    return any(names & distributions_in(path).keys() for path in found)


def _python_version(spec: PlatformSpec, records: Sequence[PackageRecord]) -> str:
    for record in records:
        if record.name == "python":
            return record.version
    raise SolveError(
        f"{spec.platform}: {spec.pip[0].place} starts a pip: section, but python is not among the packages",
        "add python=3.9 to the dependencies",
    )
