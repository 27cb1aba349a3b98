"""The archives and wheels of a lock, proven and in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from envtool.errors import Issue, LockfileError
from envtool.fetch import Cache, Wanted, fetch
from envtool.lockfile import LockedPackage
from envtool.report import Display


def fetch_packages(packages: Sequence[LockedPackage], cache: Cache, display: Display) -> dict[str, Path]:
    """Bring the archives and wheels of a lock into the cache.

    Args:
        packages: What is wanted.
        cache: Where it goes.
        display: Where progress is shown.

    Returns:
        The proven file of each URL.

    Raises:
        LockfileError: The lock has no sha256 for one of them.
        NetworkError, HashMismatchError: One could not be had or proven.
    """
    wanted = {each.url: Wanted(each.file_name, require_sha256(each), (each.url,)) for each in packages}
    with display.task(f"fetch and prove {len(packages)} archives and wheels", in_bytes=True) as task:
        paths = fetch(wanted.values(), cache, task)
    return {url: paths[each] for url, each in wanted.items()}


def require_sha256(package: LockedPackage) -> str:
    """The sha256 of a package.

    Raises:
        LockfileError: The lock has none for it.
    """
    if package.sha256 is None:
        issue = Issue(f"{package.name} {package.version}", "the lock has no sha256 for it, and MD5 proves nothing")
        raise LockfileError(package.name, [issue], "lock again from a channel whose repodata has sha256")
    return package.sha256
