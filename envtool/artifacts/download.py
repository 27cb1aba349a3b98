"""The archives and wheels of a lock, proven and in the cache; and archives looked into while a lock is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from envtool.console import ProgressDisplay, Task
from envtool.errors import EnvtoolError, Issue, LockfileError, NetworkError
from envtool.fetch import credentials
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.lockfile import model
from envtool.lockfile.model import LockedPackage, file_name_of
from envtool.mirrors.mirrors import Mirrors

if TYPE_CHECKING:
    from envtool.fetch.failover import Timeouts
    from envtool.solve.conda_solver import PackageRecord

_UNPROVEN_HINT = "envtool lock writes a lock that proves all, from channels whose repodata has sha256"


def fetch_packages(
    packages: Sequence[LockedPackage], cache: Cache, display: ProgressDisplay, *, mirrors: Mirrors | None = None,
    patience: Timeouts | None = None, is_offline: bool = False,
) -> dict[str, Path]:  # fmt: skip
    """Bring the archives and wheels of a lock into the cache. Raises LockfileError if some have no sha256, CacheError
    if the cache cannot be written or, offline, lacks some (all are listed), NetworkError or HashMismatchError."""
    unproven = [_unproven(package) for package in packages if package.sha256 is None]
    if unproven:
        raise LockfileError("the lock", unproven, _UNPROVEN_HINT)
    places = mirrors or _places(packages, cache, display, is_offline=is_offline)
    wanted = {
        each.url: Wanted(each.file_name, require_sha256(each), _with_access(each, places), each.size_bytes)
        for each in packages
    }
    if not wanted:
        return {}
    from envtool.fetch.downloader import fetch  # not imported where all is there already

    with display.task(f"fetch and prove {len(wanted)} archives and wheels", in_bytes=True) as task:
        try:
            paths = fetch(wanted.values(), cache, task, patience=patience, is_offline=is_offline)
        except NetworkError as error:
            urls = [each.access_url or "" for each in packages]
            names = sorted({name for url in urls for name in credentials.missing_variables(url)})
            hint = f"the lock names {', '.join(names)} for some of these places; set what they stand for"
            raise NetworkError(error.message, hint if names else error.hint) from None
    return {url: paths[each] for url, each in wanted.items()}


def _with_access(package: LockedPackage, places: Mirrors) -> tuple[str, ...]:
    # Without the variables, netrc or RATTLER_AUTH_FILE may have what the place asks for.
    access = package.access_url
    if access is None or credentials.missing_variables(access):
        return places.for_url(package.url)
    return tuple(access if each == package.url else each for each in places.for_url(package.url))


def _places(packages: Sequence[LockedPackage], cache: Cache, display: ProgressDisplay, *, is_offline: bool) -> Mirrors:
    if is_offline:
        return Mirrors()
    from envtool.mirrors import selection

    # Mirrors are measured, where that is wanted, for what has to be fetched and for nothing else.
    missing = [each for each in packages if not cache.path(Wanted(each.file_name, require_sha256(each), ())).exists()]
    return selection.for_urls([each.url for each in missing], cache, display)


def _unproven(package: LockedPackage) -> Issue:
    if model.is_repository(package.url):
        reason = f"the lock has the commit of {package.url} and no sha256 of the wheel that is built of it"
    elif package.md5:
        reason = "the lock has no sha256 for it, and MD5 proves nothing; nor has its channel's record of that MD5"
    else:
        reason = "the lock has no sha256 for it"
    return Issue(f"{package.name} {package.version}", reason)


def require_sha256(package: LockedPackage) -> str:
    """The sha256 of a package. Raises LockfileError if the lock has none for it."""
    if package.sha256 is None:
        raise LockfileError(package.name, [_unproven(package)], _UNPROVEN_HINT)
    return package.sha256


SILENT = Task(None, "", None, in_bytes=True)  # what a lock is made of is shown when the environment is made


def archive_at_hand(record: PackageRecord, cache: Cache) -> Path | None:
    """The archive of a record, if it is in a local channel or in the cache; nothing is fetched or hashed."""
    parts = urlsplit(record.url)
    local = Path(unquote(parts.path))
    if parts.scheme == "file" and local.is_file():
        return local
    if record.sha256 is None:
        return None
    path = cache.path(Wanted(file_name_of(record.url), record.sha256, ()))
    return path if path.is_file() else None


def find_archive(record: PackageRecord, cache: Cache, mirrors: Mirrors) -> Path | None:
    """The archive of a record, brought into the cache if need be; None where it cannot be downloaded."""
    found = archive_at_hand(record, cache)
    if found or record.sha256 is None:
        return found
    from envtool.fetch import failover
    from envtool.fetch.downloader import fetch

    wanted = Wanted(file_name_of(record.url), record.sha256, mirrors.for_url(record.url), record.size_bytes)
    try:
        return fetch([wanted], cache, SILENT, patience=failover.configured_timeouts()._replace(attempts=1))[wanted]
    except EnvtoolError:
        return None  # whoever needs it says why; a lock needs it for the best answer only
