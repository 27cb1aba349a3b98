"""Estimate of what a plan will take: bytes to download, and room on the disk."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from envtool.artifacts.download import require_sha256
from envtool.errors import ArchiveError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.install.disk_space import UNPACKED_FACTOR, unpacked_bytes, with_overhead
from envtool.install.request import Plan
from envtool.lockfile.model import LockedPackage
from envtool.package_cache.capture import find_placements
from envtool.package_cache.store import PackageCache


@dataclass(frozen=True)
class Estimate:
    """What carrying out a plan will take."""

    downloads: int
    download_bytes: int
    unknown: int  # those of unknown size
    disk_bytes: int
    free_bytes: int


def forecast(
    plan: Plan, wanted: Sequence[LockedPackage], place: Path, cache: Cache, sizes: Mapping[str, int | None]
) -> Estimate:
    """Foresee what carrying out a plan will take; nothing is downloaded."""
    placements = find_placements(wanted, PackageCache(cache)) if plan.starts_over else []
    known = {each.package.url: each.image.size_bytes for each in placements}
    for each in plan.install:
        path = cache.path(Wanted(each.file_name, require_sha256(each), ()))
        with suppress(OSError, ArchiveError, zipfile.BadZipFile):  # one that is damaged will be fetched anew
            known.setdefault(each.url, unpacked_bytes(path))
    missing = [each.url for each in plan.install if each.url not in known]
    download_bytes = sum(sizes.get(url) or 0 for url in missing)
    existing = next(each for each in (place, *place.parents) if each.exists())
    return Estimate(
        downloads=len(missing),
        download_bytes=download_bytes,
        unknown=sum(sizes.get(url) is None for url in missing),
        disk_bytes=with_overhead(sum(known.values()) + download_bytes * UNPACKED_FACTOR),
        free_bytes=shutil.disk_usage(existing).free,
    )
