"""Every archive and wheel of a lock in the cache: downloaded, or built from its git commit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.artifacts import download
from envtool.console import ProgressDisplay
from envtool.fetch.archive_cache import Cache
from envtool.lockfile import git_url
from envtool.lockfile.model import LockedPackage
from envtool.mirrors.mirrors import Mirrors

if TYPE_CHECKING:
    from envtool.fetch.failover import Timeouts


def fetch_packages(
    packages: Sequence[LockedPackage],
    cache: Cache,
    display: ProgressDisplay,
    *,
    mirrors: Mirrors | None = None,
    patience: Timeouts | None = None,
    is_offline: bool = False,
) -> dict[str, Path]:
    """The archives and wheels of a lock, brought into the cache, by canonical URL. Raises SolveError if the wheel of a
    locked commit cannot be built here, else as `envtool.artifacts.download.fetch_packages`."""
    from_git = [each for each in packages if git_url.is_repository(each.url)]
    others = [each for each in packages if each not in from_git]
    found = download.fetch_packages(others, cache, display, mirrors=mirrors, patience=patience, is_offline=is_offline)
    if from_git:
        from envtool.source_builds.rebuild import rebuild

        for each in from_git:
            found[each.url] = rebuild(each, cache, display, mirrors=mirrors, is_offline=is_offline)
    return found
