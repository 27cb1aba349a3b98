"""Wheels of locked commits, built again where a lock is used: the very bytes that were locked, or an error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.artifacts.download import fetch_packages, require_sha256
from envtool.errors import CacheError, HashMismatchError, Issue, LockfileError, SolveError
from envtool.fetch.archive_cache import Cache, Wanted, sha256_of
from envtool.fetch.downloader import Progress, fetch
from envtool.lockfile.git_url import Repository, parse
from envtool.lockfile.model import LockedPackage, SourceBuild, Tool
from envtool.scratch import scratch_directory
from envtool.source_builds import build_wheel, git

if TYPE_CHECKING:
    from envtool.console import ProgressDisplay
    from envtool.mirrors.mirrors import Mirrors

_OTHER_BYTES = (
    "the files and the tools are the locked ones, but Python {python} on this machine builds other bytes of them; "
    "build the wheel once, put it where all can get it, and write NAME @ URL"
)


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
        SolveError: it cannot be built on this machine.
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
        tools = tool_directory(built.tools, scratch / "tools", cache, display, mirrors)
        checkout = Checkout(repository, scratch / "checkout")
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
        return store(made, sha256, cache, task)


class Checkout:
    """The files of one commit in a directory of its own."""

    def __init__(self, repository: Repository, scratch: Path) -> None:
        scratch.mkdir(parents=True)
        self.repository = repository
        self._scratch = scratch
        root = scratch / repository.name
        git.check_out(repository, repository.commit or "", root)
        self.project = root / repository.subdirectory
        if not self.project.is_dir():
            raise SolveError(f"{repository.shown} has no directory {repository.subdirectory!r}")
        self.committed_at = git.committed_at(root)
        self.tree_sha256 = git.tree_sha256(root)  # before anything of it runs

    @classmethod
    def of_revision(cls, repository: Repository, scratch: Path) -> Checkout:
        """The commit that a repository has for its revision now."""
        return cls(repository.at(git.resolve(repository)), scratch)

    def requirements(self) -> tuple[str, ...]:
        """The build tools that the project asks for."""
        return build_wheel.requirements(self.project)

    def describe(self, made: Path, tools: tuple[Tool, ...]) -> tuple[str, SourceBuild]:
        """The name of a wheel that was built of these files, and how it was built."""
        name, version = build_wheel.name_and_version(made.name)
        return name, SourceBuild(made.name, version, self.tree_sha256, self.committed_at, tools)

    def build(self, tools: Path, version: str) -> Path:
        """The wheel of these files."""
        return build_wheel.build(self.project, tools, self.committed_at, self._scratch / "build", version)

    def version(self, tools: Path) -> str:
        """The version as the backend states it, which may ask the history for it."""
        root = self._scratch / "history" / self.repository.name
        git.clone(self.repository, self.repository.commit or "", root)
        made = build_wheel.build(
            root / self.repository.subdirectory, tools, self.committed_at, self._scratch / "versioned"
        )
        return build_wheel.name_and_version(made.name)[1]


def tool_directory(
    tools: Sequence[Tool], directory: Path, cache: Cache, display: ProgressDisplay, mirrors: Mirrors | None
) -> Path:
    """Make a directory with the locked build tools of a wheel."""
    directory.mkdir()
    packages = [LockedPackage("pip", each.name, each.version, "", each.url, each.sha256) for each in tools]
    for path in fetch_packages(packages, cache, display, mirrors=mirrors).values():
        (directory / path.name).symlink_to(path)
    return directory


def store(made: Path, sha256: str, cache: Cache, progress: Progress) -> Path:
    """Put a wheel that was just built into the cache."""
    wanted = Wanted(made.name, sha256, (made.as_uri(),))
    return fetch([wanted], cache, progress)[wanted]
