"""Sizes and licences of locked packages, as far as the cached repodata, archives and wheels or an index tell them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from envtool import paths
from envtool.artifacts.conda_archive import read_info_json
from envtool.errors import ArchiveError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.pypi.distributions import metadata_at
from envtool.wheels.reader import known_license, license_of


class PackageMetadata(NamedTuple):
    """What is known of one archive or wheel."""

    size_bytes: int | None = None
    license: str | None = None


def look_up(packages: Sequence[LockedPackage], *, is_offline: bool) -> Mapping[str, PackageMetadata]:
    """What is known of packages, by URL."""
    from envtool.solve.conda_solver import records_of  # slow to import, and not every command looks up

    conda = {each.url: each for each in packages if each.manager == "conda"}
    records = (each for each in records_of(conda.values(), is_offline=is_offline) if each.url in conda)
    found = {each.url: PackageMetadata(each.size_bytes, known_license(each.license)) for each in records}
    cache = Cache(paths.cache())
    for each in packages:
        path = cached_file(each, cache)
        if each.manager == "pip":
            text = _metadata_in(path) if path else None
            text = metadata_at(each.url) if text is None and not is_offline else text
            found[each.url] = PackageMetadata(path.stat().st_size if path else None, license_of(text) if text else None)
        elif path and each.url not in found:
            license = None
            with suppress(ArchiveError, OSError):
                license = known_license(read_info_json(path, "index.json").get("license"))
            found[each.url] = PackageMetadata(path.stat().st_size, license)
        if each.size_bytes is not None:  # the lock has it, whatever this machine has seen
            found[each.url] = found.get(each.url, PackageMetadata())._replace(size_bytes=each.size_bytes)
    return found


def cached_file(package: LockedPackage, cache: Cache) -> Path | None:
    """The archive or wheel in the cache, None where it is not found or the lock has no sha256 of it."""
    if package.sha256 is None:
        return None
    path = cache.path(Wanted(package.file_name, package.sha256, ()))
    return path if path.is_file() else None


def _metadata_in(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as wheel:
            names = [each for each in wheel.namelist() if each.endswith(".dist-info/METADATA") and each.count("/") == 1]
            return wheel.read(names[0]).decode("utf-8", "replace") if names else None
    except (OSError, zipfile.BadZipFile):
        return None
