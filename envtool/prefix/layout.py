"""What a prefix holds by its lock: each path with the package that it is taken from, also where several bring it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import Brought, Declared, FileManifests
from envtool.artifacts.wheel_paths import members_of, place_in_prefix, scripts_of
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.prefix import clobber
from envtool.prefix.clobber import Lost, Package

_NO_PYTHON = "lib/python3/site-packages"


@dataclass(frozen=True)
class Clobber:
    """A path that two packages bring, with another content each.

    Args:
        winner: the package that it is taken from, manager and name.
    """

    path: str
    winner: Package
    loser: Package


@dataclass(frozen=True)
class Layout:
    """What a prefix should hold.

    Args:
        declared: what archives and wheels bring, by path.
        clobbers: what of it two packages bring.
        shared: the packages that share a path with another one, be its content equal or not.
    """

    declared: Mapping[str, Declared]
    clobbers: tuple[Clobber, ...] = ()
    shared: frozenset[Package] = frozenset()


def layout(locked: Sequence[LockedPackage], manifests: FileManifests) -> Layout:
    """Decide what a prefix should hold.

    Args:
        locked: what the lock says for its platform and categories.
        manifests: where is kept what each of these packages holds.
    """
    brought = _brought(locked, manifests)
    lost = _resolve(brought, {package: each.paths for package, each in brought.items()})
    losers = {package for package, _ in lost}
    declared: dict[str, Declared] = {}
    for package, each in brought.items():
        declared.update(each.files if package not in losers else _placed(package, each, lost))
    clobbers = []
    for (loser, path), winner in lost.items():
        one, other = brought[winner].files.get(path), brought[loser].files.get(path)
        # `conda` moves even what is equal out of the way; wheels just write it once more.
        if loser[0] == "conda" or one is None or other is None or one.sha256 != other.sha256:
            clobbers.append(Clobber(path, winner, loser))
    clobbers.sort(key=lambda each: (each.winner, each.loser, each.path))
    return Layout(declared, tuple(clobbers), frozenset(losers | set(lost.values())))


def losses(locked: Sequence[LockedPackage], manifests: FileManifests, proven: Mapping[str, Path]) -> Lost:
    """What every package loses, wheels included of which only the file is there.

    Args:
        locked: what the lock says for its platform and categories.
        manifests: where is kept what each conda package holds, and some of the wheels.
        proven: the files of the other wheels, by canonical URL.
    """
    place = site_packages(locked, manifests)
    known = [each for each in locked if manifests.is_known(require_sha256(each))]
    brought = _brought(known, manifests, place)
    paths: dict[Package, Collection[str]] = {}
    for each in locked:
        package = each.manager, each.name
        if package in brought:
            paths[package] = brought[package].paths
        elif each.url in proven:
            wheel = proven[each.url]
            names = [place_in_prefix(name, place) for name in members_of(wheel)]
            paths[package] = [*names, *(f"bin/{name}" for name in scripts_of(wheel))]
    return _resolve(brought, paths)


def site_packages(locked: Sequence[LockedPackage], manifests: FileManifests) -> str:
    """Where the Python of a lock has its packages, relative to the prefix; any place when it has none."""
    python = next((each for each in locked if (each.manager, each.name) == ("conda", "python")), None)
    is_known = python is not None and manifests.is_known(require_sha256(python))
    return manifests.site_packages(require_sha256(python)) if python and is_known else _NO_PYTHON


def _brought(
    locked: Sequence[LockedPackage], manifests: FileManifests, place: str | None = None
) -> dict[Package, Brought]:
    place = place or site_packages(locked, manifests)
    keys = {(each.manager, each.name): each for each in locked}
    return {package: manifests.brought(require_sha256(each), package, place) for package, each in keys.items()}


def _resolve(brought: Mapping[Package, Brought], paths: Mapping[Package, Collection[str]]) -> Lost:
    def order() -> list[str]:
        conda = {name: each for (manager, name), each in brought.items() if manager == "conda"}
        depends = {name: each.depends for name, each in conda.items()}
        return clobber.topological_order(depends, [name for name, each in conda.items() if each.is_noarch])

    return clobber.resolve(paths, order)


def _placed(package: Package, brought: Brought, lost: Lost) -> dict[str, Declared]:
    placed = {}
    for path, file in brought.files.items():
        winner = lost.get((package, path))
        if winner is None:
            placed[path] = file
        elif (package[0], winner[0]) == ("conda", "conda"):
            placed[clobber.kept_at(package[1], path)] = file
    return placed
