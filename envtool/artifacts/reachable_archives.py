"""Archives that can be looked into while a lock is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from envtool.errors import EnvtoolError
from envtool.fetch.archive_cache import Cache, Wanted

if TYPE_CHECKING:
    from envtool.mirrors.mirrors import Mirrors
    from envtool.solve.conda_solver import PackageRecord


class _Silent:
    def advance(self, amount: int) -> None:
        """Show nothing: the file is shown when the environment is made."""


SILENT = _Silent()


def archive_at_hand(record: PackageRecord, cache: Cache) -> Path | None:
    """The archive of a record, if it is in a local channel or in the cache; nothing is fetched or hashed."""
    parts = urlsplit(record.url)
    local = Path(unquote(parts.path))
    if parts.scheme == "file" and local.is_file():
        return local
    if record.sha256 is None:
        return None
    path = cache.path(Wanted(_file_name(record), record.sha256, ()))
    return path if path.is_file() else None


def find_archive(record: PackageRecord, cache: Cache, mirrors: Mirrors) -> Path | None:
    """The archive of a record, brought into the cache if need be; None where it cannot be downloaded."""
    found = archive_at_hand(record, cache)
    if found or record.sha256 is None:
        return found
    from envtool.fetch import failover
    from envtool.fetch.downloader import fetch

    wanted = Wanted(_file_name(record), record.sha256, mirrors.for_url(record.url), record.size_bytes)
    try:
        return fetch([wanted], cache, SILENT, patience=replace(failover.configured_timeouts(), attempts=1))[wanted]
    except EnvtoolError:
        return None  # whoever needs it says why; a lock needs it for the best answer only


def _file_name(record: PackageRecord) -> str:
    return unquote(record.url.rpartition("/")[2])
