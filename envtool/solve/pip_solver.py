"""The wheels of the `pip:` section, chosen for the conda packages of each platform. Of a git repository a lock names
the commit and the hashes of its files, of the build tools and of the wheel, so that a machine builds the very bytes
that were locked or refuses. So it is built once with the whole history, to learn the version where tags state it, and
twice from the commit alone, in two places, since a build that is not the same twice can be no part of a lock."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from packaging.utils import canonicalize_name

from envtool import paths
from envtool.artifacts.download import archive_at_hand, find_archive
from envtool.console import ProgressDisplay, Task
from envtool.errors import SolveError
from envtool.fetch.archive_cache import Cache, sha256_of
from envtool.lockfile.model import LockedPackage, Repository, Tool, is_repository, parse_repository
from envtool.mirrors import pip_index
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi.distributions import DISTRIBUTION_NAMES, distributions_in, provided_distributions
from envtool.pypi.resolve import Target, WheelRequest, choose
from envtool.scratch import scratch_directory
from envtool.solve.solution import Preference, Solution, SolveErrors, Sources, hold_most
from envtool.source_builds.wheel_builds import Checkout, rebuild, store, tool_directory
from envtool.spec.environment import Dependency, EnvironmentSpec, PlatformSpec
from envtool.spec.pip_requirements import name_of, url_of
from envtool.spec.version_policy import VersionPolicy

# The oldest Python that envtool runs on: tools that run there run wherever a lock may be used.
_OLDEST_PYTHON = "3.9"


@dataclass
class GitWheels:
    """The wheels of one environment's requirements that name repositories; each is built once for all platforms."""

    spec: EnvironmentSpec
    mirrors: Mirrors
    policy: VersionPolicy
    display: ProgressDisplay
    _built: dict[str, tuple[LockedPackage, Path]] = field(default_factory=dict)

    def wheel(self, requirement: Dependency, kept: Sequence[LockedPackage] = ()) -> tuple[LockedPackage, Path]:
        """The wheel of a requirement, and its file; one of the same name in `kept`, of an old lock, stays, whatever its
        branch has moved on to. Raises SolveError if it does not build, twice to the same bytes, NetworkError."""
        name = name_of(requirement.text)
        old = next((each for each in kept if each.name == name and each.built), None)
        key = old.url if old else str(url_of(requirement.text))
        if key not in self._built:
            repository = parse_repository(key)
            with self.display.task(f"build {name} from {repository.shown}") as task:
                cache = Cache(paths.cache())
                kept_wheel = (old, rebuild(old, cache, self.display, mirrors=self.mirrors)) if old else None
                self._built[key] = kept_wheel or self._new(repository, requirement, task)
        found = self._built[key][0].name
        if found != name:
            message = f"{requirement.place}: expected {name} in {parse_repository(key).shown}, found {found}"
            raise SolveError(message, f"write {found} @ {key}")
        return self._built[key]

    def _new(self, repository: Repository, requirement: Dependency, progress: Task) -> tuple[LockedPackage, Path]:
        with scratch_directory() as scratch:
            first = Checkout.of_revision(repository, scratch / "first")
            pinned = first.repository
            moment = datetime.fromtimestamp(first.committed_at, timezone.utc)
            if self.policy.exclude_newer and moment > self.policy.exclude_newer:
                commit = f"commit {pinned.commit} of {pinned.shown} is of {moment:%Y-%m-%d %H:%M} UTC"
                message = f"{requirement.place}: {commit}, which exclude-newer leaves out"
                raise SolveError(message, "write an older commit after the @, or a later date")
            tools, cache = self._tools(first.requirements()), Cache(paths.cache())
            place = tool_directory(tools, scratch / "tools", cache, self.display, self.mirrors)
            version = first.version(place)
            made = first.build(place, version)
            again = Checkout(pinned, scratch / "second" / "elsewhere").build(place, version)
            sha256 = sha256_of(made)
            if sha256 != sha256_of(again):
                message = f"{requirement.place}: {pinned.shown} does not build the same {made.name} twice"
                raise SolveError(message, "build the wheel once, put it where all can get it, and write NAME @ URL")
            name, built = first.describe(made, tools)
            wheel = LockedPackage("pip", name, built.version, "", str(pinned), sha256, built=built)
            wheel = replace(wheel, size_bytes=made.stat().st_size)
            return wheel, store(made, sha256, cache, progress)

    def _tools(self, asked: Sequence[str]) -> tuple[Tool, ...]:
        if not asked:
            return ()
        request = WheelRequest(
            Target("linux-64", _OLDEST_PYTHON), tuple(asked), index_url=self.spec.pip_index,
            extra_index_urls=self.spec.pip_repositories, allows_default_index=self.spec.allows_default_index,
            policy=VersionPolicy(exclude_newer=self.policy.exclude_newer), is_pure=True,
        )  # fmt: skip
        try:
            chosen = choose(request, self.mirrors)
        except SolveError:
            # Some need a newer Python; then the machines that use the lock need it too, at least the one of this one.
            python = ".".join(str(part) for part in sys.version_info[:2])
            chosen = choose(replace(request, target=Target("linux-64", python)), self.mirrors)
        return tuple(Tool(each.name, each.version, each.url, each.sha256 or "") for each in chosen)


_AT_ONCE = 4  # runs of uv
_MIN_SUSPECT_NAME = 3
_MAX_SUSPECT_BYTES = 50_000_000


def add_wheels(
    spec: EnvironmentSpec, solutions: Sequence[Solution], sources: Sources, policy: VersionPolicy,
    preferred: Mapping[str, Preference],
) -> list[Solution]:  # fmt: skip
    """Choose the wheels for each platform's conda packages. Raises SolveError with every platform's reason."""
    repositories = {
        each.text: (each, preferred.get(platform.platform, Preference()).keep_wheels)
        for platform in spec.platforms
        for each in platform.pip
        if is_repository(url_of(each.text))
    }
    git_wheels = GitWheels(spec, sources.mirrors, policy, sources.display)
    built = {text: git_wheels.wheel(each, kept) for text, (each, kept) in repositories.items()}

    def chosen(platform: PlatformSpec, solution: Solution) -> Solution:
        if not platform.pip:
            return solution
        preference, records = preferred.get(platform.platform, Preference()), solution.records
        python = {record.name: record.version for record in records}.get("python")
        if python is None:
            section = f"{platform.platform}: {platform.pip[0].place} starts a pip: section"
            raise SolveError(f"{section}, but python is not among the packages", "add python=3.9 to the dependencies")
        request = WheelRequest(
            target=Target(platform.platform, python, platform.virtual_packages.get("__glibc")),
            requirements=tuple(sorted({each.text for each in platform.pip})),
            constraints=(*sorted({one.text for one in platform.pip_constraints}), *preference.pip_constraints),
            provided=provided_distributions(records, Cache(paths.cache())), index_url=spec.pip_index,
            extra_index_urls=spec.pip_repositories, allows_default_index=spec.allows_default_index,
            allows_prereleases=spec.allows_prereleases, requires_hashes=spec.requires_hashes,
            keep=preference.keep_wheels, policy=policy,
            built={built[each.text][0].name: built[each.text] for each in platform.pip if each.text in built},
        )  # fmt: skip
        wheels = _with_fewest_moves(request, sources.mirrors)
        # Fetch archives that may be a chosen distribution under another name (foo-base, pyfoo); whether one is.
        cache = Cache(paths.cache())
        names = {each.name for each in wheels if len(each.name) >= _MIN_SUSPECT_NAME}
        suspects = [
            record
            for record in records
            if any(name in record.name for name in names)
            and canonicalize_name(record.name) not in DISTRIBUTION_NAMES
            and (record.size_bytes or 0) <= _MAX_SUSPECT_BYTES
            and archive_at_hand(record, cache) is None
        ]
        found = [path for suspect in suspects if (path := find_archive(suspect, cache, sources.mirrors))]
        if any(names & distributions_in(path).keys() for path in found):
            request = replace(request, provided=provided_distributions(records, Cache(paths.cache())))
            wheels = _with_fewest_moves(request, sources.mirrors)
        provided = {name: each.record.name for name, each in request.provided.items()}
        return replace(solution, wheels=tuple(wheels), provided=provided)

    with ThreadPoolExecutor(len(solutions)) as pool:
        futures = [pool.submit(chosen, *each) for each in zip(spec.platforms, solutions)]
        errors = [error for future in futures if isinstance(error := future.exception(), SolveError)]
        if errors:
            raise errors[0] if len(errors) == 1 else SolveErrors(errors)
        return [each.result() for each in futures]


def _with_fewest_moves(request: WheelRequest, mirrors: Mirrors) -> list[LockedPackage]:
    """The wheels that move the fewest of those that are to be kept."""
    kept = [each for each in request.keep if not each.built and each.name not in request.provided]
    request = replace(request, keep=tuple(kept))
    refused: list[SolveError] = []

    def attempt(held: Sequence[LockedPackage]) -> list[LockedPackage] | None:
        pins = tuple(f"{each.name}=={each.version}" for each in held)
        try:
            return choose(replace(request, constraints=(*request.constraints, *pins)), mirrors)
        except SolveError as error:
            refused.append(error)
            return None

    found = attempt(kept)
    if found is None and kept and not pip_index.is_index_failure(refused[0].message):
        asked = {name_of(requirement) for requirement in request.requirements}
        important = [each for each in kept if each.name in asked]
        others = [each for each in kept if each.name not in asked]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = hold_most(
                important, others, lambda selections: list(pool.map(attempt, selections)),
                lambda each, wheels: (each.name, each.version) in {(wheel.name, wheel.version) for wheel in wheels},
            )  # fmt: skip
    if found is None:
        raise refused[-1]
    return found
