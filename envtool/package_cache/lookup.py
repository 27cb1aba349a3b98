"""Packages of a lock that need not be unpacked, and those of a new prefix that are worth keeping."""

from __future__ import annotations

from collections.abc import Sequence

from envtool import console
from envtool.artifacts.download import require_sha256
from envtool.lockfile.model import LockedPackage
from envtool.package_cache.capture import Made, capture
from envtool.package_cache.entry import image_key
from envtool.package_cache.materialize import Placement
from envtool.package_cache.store import SETTING, PackageCache


def find_placements(wanted: Sequence[LockedPackage], store: PackageCache) -> list[Placement]:
    """The packages that the store has an image of."""
    if not store.is_used:
        return []
    found = ((package, key, store.find(key)) for key, package in _keys(wanted).items())
    return [Placement(package, image, store.path(key)) for package, key, image in found if image is not None]


def forget(wanted: Sequence[LockedPackage], store: PackageCache) -> None:
    """Drop the images of packages, so that they are made anew from their archives."""
    for key in _keys(wanted):
        if store.path(key).exists():
            store.drop(key)


def remember(made: Made, wanted: Sequence[LockedPackage], store: PackageCache) -> None:
    """Keep the images of packages that the store has none of; what cannot be kept is only said."""
    keys = _keys(wanted) if store.is_used else {}
    alone = {key: package for key, package in keys.items() if (package.manager, package.name) not in made.shared}
    new = {key: package for key, package in alone.items() if not store.path(key).exists()}
    if not new:
        return
    others = [package for key, package in keys.items() if key not in new]
    try:
        capture(made, new, others, store)
    except OSError as error:
        reason = error.strerror or str(error)
        console.warn(f"unpacked packages cannot be kept in {store.root}: {reason}", f"{SETTING}=never does without")


def _keys(wanted: Sequence[LockedPackage]) -> dict[str, LockedPackage]:
    python = next((each for each in wanted if each.manager == "conda" and each.name == "python"), None)
    python_sha256 = require_sha256(python) if python else ""
    return {image_key(each, python_sha256): each for each in wanted}
