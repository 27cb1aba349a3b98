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

from envtool import paths
from envtool.artifacts.download import fetch_packages, require_sha256
from envtool.console import ProgressDisplay
from envtool.errors import CacheError, HashMismatchError, Issue, LockfileError, SolveError
from envtool.fetch.archive_cache import Cache, Wanted, sha256_of
from envtool.fetch.downloader import Progress, fetch
from envtool.lockfile.build_recipe import SourceBuild, Tool
from envtool.lockfile.git_url import Repository, parse
from envtool.lockfile.model import LockedPackage
from envtool.lockfile.pylock import Wheel
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import resolve
from envtool.pypi.resolve import Target, WheelRequest
from envtool.scratch import scratch_directory
from envtool.source_builds import build_wheel, git
from envtool.spec.environment import Dependency, EnvironmentSpec
from envtool.spec.pip_requirements import name_of, url_of
from envtool.spec.version_policy import VersionPolicy

# The oldest Python that envtool runs on: tools that run there run wherever a lock may be used.
_OLDEST_PYTHON = "3.9"
_OTHER_BYTES = (
    "the files and the tools are the locked ones, but Python {python} on this machine builds other bytes of them; "
    "build the wheel once, put it where all can get it, and write NAME @ URL"
)


@dataclass(frozen=True)
class BuiltWheel:
    """A wheel and how it was made.

    Args:
        wheel: as it stands in the lock.
    """

    wheel: Wheel
    path: Path


class GitWheels:
    """The wheels of one environment's requirements that name repositories; each is built once for all platforms.

    Args:
        spec: says which package indexes have the build tools.
        mirrors: where their bytes may come from.
        policy: how old a commit and a tool have to be.
    """

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
            requirement: `NAME @ git+URL`, with or without a revision.
            kept: wheels of an old lock; one of the same name stays, whatever its branch has moved on to.

        Raises:
            SolveError: the wheel cannot be built, or not twice to the same bytes.
            NetworkError: the repository or a tool cannot be had.
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
        pinned = repository.at(git.resolve(repository))
        with scratch_directory() as scratch:
            first = _Checkout(pinned, scratch / "first")
            self._refuse_newer(pinned, first.committed_at, requirement)
            tools = self._tools(first.project)
            place = _tool_directory(tools, scratch / "tools", self._cache, self._display, self._mirrors)
            version = first.version(place)
            made = first.build(place, version)
            again = _Checkout(pinned, scratch / "second" / "elsewhere").build(place, version)
            sha256 = sha256_of(made)
            if sha256 != sha256_of(again):
                raise SolveError(
                    f"{requirement.place}: {pinned.shown} does not build the same {made.name} twice",
                    "build the wheel once, put it where all can get it, and write NAME @ URL",
                )
            name, version = build_wheel.name_and_version(made.name)
            built = SourceBuild(made.name, version, first.tree_sha256, first.committed_at, tools)
            return BuiltWheel(
                Wheel(name, version, str(pinned), sha256, made.stat().st_size, built=built),
                _store(made, sha256, self._cache, progress),
            )

    def _refuse_newer(self, repository: Repository, committed_at: int, requirement: Dependency) -> None:
        moment = datetime.fromtimestamp(committed_at, timezone.utc)
        if self._policy.exclude_newer and moment > self._policy.exclude_newer:
            commit = f"commit {repository.commit} of {repository.shown} is of {moment:%Y-%m-%d %H:%M} UTC"
            raise SolveError(
                f"{requirement.place}: {commit}, which exclude-newer leaves out",
                "write an older commit after the @, or a later date",
            )

    def _tools(self, project: Path) -> tuple[Tool, ...]:
        asked = build_wheel.requirements(project)
        if not asked:
            return ()
        request = WheelRequest(
            target=Target("linux-64", _OLDEST_PYTHON),
            requirements=asked,
            index_url=self._spec.pip_index,
            extra_index_urls=self._spec.pip_repositories,
            allows_default_index=self._spec.allows_default_index,
            policy=VersionPolicy(exclude_newer=self._policy.exclude_newer),
            is_pure=True,
        )
        try:
            chosen = resolve.choose(request, self._mirrors)
        except SolveError:
            # Some need a newer Python; then the machines that use the lock need it too, at least the one of this one.
            python = ".".join(str(part) for part in sys.version_info[:2])
            chosen = resolve.choose(replace(request, target=Target("linux-64", python)), self._mirrors)
        return tuple(Tool(each.name, each.version, each.url, each.sha256) for each in chosen)


def rebuild(
    package: LockedPackage,
    cache: Cache,
    display: ProgressDisplay,
    *,
    mirrors: Mirrors | None = None,
    is_offline: bool = False,
) -> Path:
    """The wheel of a locked commit: from the cache, or built again and proven to be the very one that was locked.

    Raises:
        LockfileError: the lock does not say how it was built.
        HashMismatchError: the files of the commit or the wheel are not the locked ones.
        NetworkError: the repository or a tool cannot be had.
        SolveError: it cannot be built on this machine.
        CacheError: it is not in the cache, and nothing may be asked.
    """
    wanted = Wanted(package.file_name, require_sha256(package), ())
    found = cache.find(wanted)
    if found:
        return found
    repository, built = parse(package.url), package.built
    if is_offline:
        raise CacheError(
            f"{package.file_name} is not in the cache {cache.root}",
            "run the same command once without --offline, where there is a network",
        )
    if built is None or repository.commit is None:
        issue = Issue(f"{package.name} {package.version}", f"the lock does not say how {package.url} is built")
        raise LockfileError("the lock", [issue], "envtool lock writes one that does")
    with display.task(f"build {package.name} from {repository.shown}") as task, scratch_directory() as scratch:
        tools = _tool_directory(built.tools, scratch / "tools", cache, display, mirrors)
        checkout = _Checkout(repository, scratch / "checkout")
        if checkout.tree_sha256 != built.tree_sha256:
            shown = f"what {repository.shown} has at {repository.commit}"
            raise HashMismatchError(shown, f"sha256:{built.tree_sha256}", f"sha256:{checkout.tree_sha256}")
        made = checkout.build(tools, built.version)
        sha256 = sha256_of(made)
        if sha256 != package.sha256:
            python = ".".join(str(part) for part in sys.version_info[:2])
            raise HashMismatchError(
                made.name, f"sha256:{package.sha256}", f"sha256:{sha256}", _OTHER_BYTES.format(python=python)
            )
        return _store(made, sha256, cache, task)


class _Checkout:
    """The files of one commit in a directory of its own."""

    def __init__(self, repository: Repository, scratch: Path) -> None:
        scratch.mkdir(parents=True)
        self._repository = repository
        self._scratch = scratch
        root = scratch / repository.name
        git.check_out(repository, repository.commit or "", root)
        self.project = root / repository.subdirectory
        if not self.project.is_dir():
            raise SolveError(f"{repository.shown} has no directory {repository.subdirectory!r}")
        self.committed_at = git.committed_at(root)
        self.tree_sha256 = git.tree_sha256(root)  # before anything of it runs

    def build(self, tools: Path, version: str) -> Path:
        """The wheel of these files."""
        return build_wheel.build(self.project, tools, self.committed_at, self._scratch / "build", version)

    def version(self, tools: Path) -> str:
        """The version as the backend states it, which may ask the history for it."""
        root = self._scratch / "history" / self._repository.name
        git.clone(self._repository, self._repository.commit or "", root)
        made = build_wheel.build(
            root / self._repository.subdirectory, tools, self.committed_at, self._scratch / "versioned"
        )
        return build_wheel.name_and_version(made.name)[1]


def _tool_directory(
    tools: Sequence[Tool], directory: Path, cache: Cache, display: ProgressDisplay, mirrors: Mirrors | None
) -> Path:
    directory.mkdir()
    packages = [LockedPackage("pip", each.name, each.version, "", each.url, each.sha256) for each in tools]
    for path in fetch_packages(packages, cache, display, mirrors=mirrors).values():
        (directory / path.name).symlink_to(path)
    return directory


def _store(made: Path, sha256: str, cache: Cache, progress: Progress) -> Path:
    wanted = Wanted(made.name, sha256, (made.as_uri(),))
    return fetch([wanted], cache, progress)[wanted]
