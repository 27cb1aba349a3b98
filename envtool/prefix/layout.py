"""Contents of a prefix by its lock: each path with the package that it is taken from, also where several bring it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import Brought, Declared, FileManifests
from envtool.artifacts.stated_paths import checksums_of, place_in_prefix, scripts_of
from envtool.lockfile.model import LockedPackage
from envtool.prefix import clobber
from envtool.prefix.clobber import Lost, Package
from envtool.prefix.rattler import link_order

_NO_PYTHON = "lib/python3/site-packages"


@dataclass(frozen=True)
class Clobber:
    """A path that two packages bring, with another content each."""

    path: str
    winner: Package
    loser: Package


@dataclass(frozen=True)
class Layout:
    """What a prefix should hold."""

    declared: Mapping[str, Declared]
    clobbers: tuple[Clobber, ...] = ()
    shared: frozenset[Package] = frozenset()  # those that share a path, be its content equal or not


def layout(locked: Sequence[LockedPackage], manifests: FileManifests) -> Layout:
    """Decide what a prefix should hold; what each of the packages holds, is known."""
    brought = _brought(locked, manifests, site_packages(locked, manifests))
    lost = losses(locked, manifests, {})
    losers = {package for package, _ in lost}
    declared: dict[str, Declared] = {}
    for package, found in brought.items():
        declared.update(found.files if package not in losers else _placed(package, found, lost))
    clobbers = []
    for (loser, path), winner in lost.items():
        one, other = brought[winner].files.get(path), brought[loser].files.get(path)
        # `conda` moves even what is equal out of the way; wheels just write it once more.
        if loser[0] == "conda" or one is None or other is None or one.sha256 != other.sha256:
            clobbers.append(Clobber(path, winner, loser))
    clobbers.sort(key=lambda clobber: (clobber.winner, clobber.loser, clobber.path))
    return Layout(declared, tuple(clobbers), frozenset(losers | set(lost.values())))


def losses(locked: Sequence[LockedPackage], manifests: FileManifests, proven: Mapping[str, Path]) -> Lost:
    """What every package loses of which it is known what it brings; worked out once for the same packages."""
    known = [package for package in locked if manifests.is_known(require_sha256(package)) or package.url in proven]
    keys = tuple((package.manager, package.name, require_sha256(package)) for package in known)
    return _losses(_Question(keys, site_packages(locked, manifests), known, manifests, proven))


@dataclass(frozen=True)
class _Question:
    # Equal where the packages are, wherever it is read what they hold: their hashes stand for that.
    keys: tuple[tuple[str, str, str], ...]
    site_packages: str
    packages: Sequence[LockedPackage] = field(compare=False)
    manifests: FileManifests = field(compare=False)
    proven: Mapping[str, Path] = field(compare=False)


@lru_cache(maxsize=1)
def _losses(question: _Question) -> Lost:
    place = question.site_packages
    kept = [package for package in question.packages if question.manifests.is_known(require_sha256(package))]
    brought = _brought(kept, question.manifests, place)
    paths: dict[Package, Collection[str]] = {}
    for package in question.packages:
        key = package.manager, package.name
        if key in brought:
            paths[key] = brought[key].paths
        else:
            wheel = question.proven[package.url]
            names = [place_in_prefix(name, place) for name in checksums_of(wheel)]
            paths[key] = [*names, *(f"bin/{name}" for name in scripts_of(wheel))]

    def order() -> list[str]:
        conda = {name: found for (manager, name), found in brought.items() if manager == "conda"}
        depends = {name: found.depends for name, found in conda.items()}
        return link_order(depends, [name for name, found in conda.items() if found.is_noarch])

    return clobber.resolve(paths, order)


def site_packages(locked: Sequence[LockedPackage], manifests: FileManifests) -> str:
    """Where the Python of a lock has its packages, relative to the prefix; any place when it has none."""
    for package in locked:
        if (package.manager, package.name) == ("conda", "python") and manifests.is_known(require_sha256(package)):
            return manifests.site_packages(require_sha256(package))
    return _NO_PYTHON


def _brought(locked: Sequence[LockedPackage], manifests: FileManifests, place: str) -> dict[Package, Brought]:
    keys = {(package.manager, package.name): require_sha256(package) for package in locked}
    return {package: manifests.brought(sha256, package, place) for package, sha256 in keys.items()}


def _placed(package: Package, brought: Brought, lost: Lost) -> dict[str, Declared]:
    placed = {}
    for path, file in brought.files.items():
        winner = lost.get((package, path))
        if winner is None:
            placed[path] = file
        elif (package[0], winner[0]) == ("conda", "conda"):
            placed[clobber.kept_at(package[1], path)] = file
    return placed
