"""Wheels of projects in git repositories: built when the lock is made, and again, to the same bytes, where it is used.

A lock names the commit, the hash of its files, the build tools with their hashes, and the hash of the wheel. So a
machine that builds the wheel either has the very bytes that were locked or refuses. It is built three times when it is
locked: once with the whole history, to learn the version where the tags say it, and twice from the commit alone, in two
places, since a build that is not the same twice can be no part of a lock.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from envtool import paths
from envtool.errors import SolveError
from envtool.fetch.archive_cache import Cache, sha256_of
from envtool.lockfile.git_url import Repository, parse
from envtool.lockfile.model import LockedPackage, Tool
from envtool.lockfile.pylock import Wheel
from envtool.pypi.resolve import Target, WheelRequest, choose
from envtool.scratch import scratch_directory
from envtool.source_builds.wheel_builds import Checkout, rebuild, store, tool_directory
from envtool.spec.pip_requirements import name_of, url_of
from envtool.spec.version_policy import VersionPolicy

if TYPE_CHECKING:
    from envtool.console import ProgressDisplay
    from envtool.fetch.downloader import Progress
    from envtool.mirrors.mirrors import Mirrors
    from envtool.spec.environment import Dependency, EnvironmentSpec

# The oldest Python that envtool runs on: tools that run there run wherever a lock may be used.
_OLDEST_PYTHON = "3.9"


@dataclass(frozen=True)
class BuiltWheel:
    """A wheel and how it was made."""

    wheel: Wheel
    path: Path


class GitWheels:
    """The wheels of one environment's requirements that name repositories; each is built once for all platforms."""

    def __init__(
        self, spec: EnvironmentSpec, mirrors: Mirrors, policy: VersionPolicy, display: ProgressDisplay
    ) -> None:
        self._spec = spec
        self._mirrors = mirrors
        self._policy = policy
        self._display = display
        self._cache = Cache(paths.cache())
        self._built: dict[str, BuiltWheel] = {}

    def wheel(self, requirement: Dependency, kept: Sequence[Wheel] = ()) -> BuiltWheel:
        """The wheel of a requirement.

        Args:
            kept: wheels of an old lock; one of the same name stays, whatever its branch has moved on to.

        Raises:
            SolveError: the wheel cannot be built, or not twice to the same bytes.
            NetworkError: the repository or a tool cannot be downloaded.
        """
        name = name_of(requirement.text)
        old = next((each for each in kept if each.name == name and each.built), None)
        key = old.url if old else str(url_of(requirement.text))
        if key not in self._built:
            repository = parse(key)
            with self._display.task(f"build {name} from {repository.shown}") as task:
                self._built[key] = self._kept(old) if old else self._new(repository, requirement, task)
        found = self._built[key]
        if found.wheel.name != name:
            raise SolveError(
                f"{requirement.place}: expected {name} in {parse(key).shown}, found {found.wheel.name}",
                f"write {found.wheel.name} @ {key}",
            )
        return found

    def _kept(self, old: Wheel) -> BuiltWheel:
        package = LockedPackage("pip", old.name, old.version, "", old.url, old.sha256, built=old.built)
        return BuiltWheel(old, rebuild(package, self._cache, self._display, mirrors=self._mirrors))

    def _new(self, repository: Repository, requirement: Dependency, progress: Progress) -> BuiltWheel:
        with scratch_directory() as scratch:
            first = Checkout.of_revision(repository, scratch / "first")
            pinned = first.repository
            self._refuse_newer(pinned, first.committed_at, requirement)
            tools = self._tools(first.requirements())
            place = tool_directory(tools, scratch / "tools", self._cache, self._display, self._mirrors)
            version = first.version(place)
            made = first.build(place, version)
            again = Checkout(pinned, scratch / "second" / "elsewhere").build(place, version)
            sha256 = sha256_of(made)
            if sha256 != sha256_of(again):
                raise SolveError(
                    f"{requirement.place}: {pinned.shown} does not build the same {made.name} twice",
                    "build the wheel once, put it where all can get it, and write NAME @ URL",
                )
            name, built = first.describe(made, tools)
            return BuiltWheel(
                Wheel(name, built.version, str(pinned), sha256, made.stat().st_size, built=built),
                store(made, sha256, self._cache, progress),
            )

    def _refuse_newer(self, repository: Repository, committed_at: int, requirement: Dependency) -> None:
        moment = datetime.fromtimestamp(committed_at, timezone.utc)
        if self._policy.exclude_newer and moment > self._policy.exclude_newer:
            commit = f"commit {repository.commit} of {repository.shown} is of {moment:%Y-%m-%d %H:%M} UTC"
            raise SolveError(
                f"{requirement.place}: {commit}, which exclude-newer leaves out",
                "write an older commit after the @, or a later date",
            )

    def _tools(self, asked: Sequence[str]) -> tuple[Tool, ...]:
        if not asked:
            return ()
        request = WheelRequest(
            target=Target("linux-64", _OLDEST_PYTHON),
            requirements=tuple(asked),
            index_url=self._spec.pip_index,
            extra_index_urls=self._spec.pip_repositories,
            allows_default_index=self._spec.allows_default_index,
            policy=VersionPolicy(exclude_newer=self._policy.exclude_newer),
            is_pure=True,
        )
        try:
            chosen = choose(request, self._mirrors)
        except SolveError:
            # Some need a newer Python; then the machines that use the lock need it too, at least the one of this one.
            python = ".".join(str(part) for part in sys.version_info[:2])
            chosen = choose(replace(request, target=Target("linux-64", python)), self._mirrors)
        return tuple(Tool(each.name, each.version, each.url, each.sha256) for each in chosen)
