"""Room in the cache: what each part of it takes, and the unpacked packages that nobody used for long."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from envtool.fetch.archive_cache import Cache
from envtool.package_cache.store import Kept, PackageCache

# What holds what, for people.
PARTS = ("sha256", "partial", "manifests", "repodata", "unpacked")
_DAY_S = 86_400


def sizes(cache: Cache) -> dict[str, int]:
    """The bytes that each part of a cache takes; unpacked packages of other users cannot be seen, and do not count."""
    return {part: _size_bytes(cache.root / part) for part in PARTS}


def stale(store: PackageCache, days: float) -> list[Kept]:
    """The images that were used last before so many days."""
    return [each for each in store.kept() if each.used_s <= time.time() - days * _DAY_S]


def prune(store: PackageCache, images: Sequence[Kept]) -> None:
    """Remove images, and what processes left that were killed."""
    for each in images:
        store.drop(each.key)
    store.clean()


def _size_bytes(place: Path) -> int:
    found = (os.path.join(directory, name) for directory, _, names in os.walk(place) for name in names)  # noqa: PTH118
    return sum(os.lstat(each).st_size for each in found if os.path.lexists(each))
