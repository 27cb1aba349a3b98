"""Contents of a prefix by its lock: each path with the package that it is taken from, decided by the packages alone. Of
two conda packages that bring one path the later linked wins, as with py-rattler, and what loses lies in
`__clobbers__/NAME/`. Wheels come after, in the order of the lock, as pip installs them, and the last one wins. Source:
rattler's crates `path_resolver` and `rattler::install::clobber_registry`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import (
    Brought,
    Declared,
    FileManifests,
    checksums_of,
    kept_at,
    place_in_prefix,
    scripts_of,
)
from envtool.lockfile.model import LockedPackage
from envtool.prefix.rattler import link_order

# Manager and name.
Package = tuple[str, str]
# The path of a package that is not taken from it, and the package that it is taken from.
Lost = Mapping[tuple[Package, str], Package]


def resolve(brought: Mapping[Package, Collection[str]], conda_order: Callable[[], Sequence[str]]) -> Lost:
    """Decide whose every path is; `conda_order` names the conda packages as they are linked, if two share a path."""
    claims = {package: paths for package, paths in _contested(brought).items() if paths}
    if not claims:
        return {}
    conda = {package: paths for package, paths in claims.items() if package[0] == "conda"}
    lost: dict[tuple[Package, str], Package] = {}
    if len(conda) > 1:
        rank = {("conda", name): place for place, name in enumerate(conda_order())}
        _settle([(package, path, path) for package, paths in conda.items() for path in paths], rank, lost)
    _overwrite(claims, lost)
    return lost


def _contested(brought: Mapping[Package, Collection[str]]) -> dict[Package, list[str]]:
    """The paths that another package has too, or has something below, or a file above."""
    owners: dict[str, Package] = {}
    same = set()
    for package, paths in brought.items():
        for path in paths:
            if owners.setdefault(path, package) is not package:
                same.add(path)
    directories: set[str] = set()
    for directory in {path.rpartition("/")[0] for path in owners}:
        directories.update(parents(f"{directory}/"))
    roots = directories & owners.keys()
    if not same and not roots:
        return {}
    below = tuple(f"{root}/" for root in roots)
    contested = same | roots
    return {
        package: [path for path in paths if path in contested or (below and path.startswith(below))]
        for package, paths in brought.items()
    }


def parents(path: str) -> Iterator[str]:
    """The directories that a relative path is in, the innermost first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _settle(
    claims: list[tuple[Package, str, str]], rank: Mapping[Package, int], lost: dict[tuple[Package, str], Package]
) -> None:
    """Settle the claims on one directory; each is a package, a path, and what of it is below that directory."""
    waiting = [claims]
    while waiting:
        nodes: dict[str, list[tuple[Package, str, str]]] = {}
        for package, path, rest in waiting.pop():
            first, _, below = rest.partition("/")
            nodes.setdefault(first, []).append((package, path, below))
        for node in nodes.values():
            winner = max((package for package, _, _ in node), key=rank.__getitem__)
            if any(package == winner and not below for package, _, below in node):
                # A file of the winner: nothing of another package is in its place or below.
                lost.update({(package, path): winner for package, path, _ in node if package != winner})
            else:
                lost.update({(package, path): winner for package, path, below in node if not below})
                waiting.append([each for each in node if each[2]])


def _overwrite(claims: Mapping[Package, Collection[str]], lost: dict[tuple[Package, str], Package]) -> None:
    placed: dict[str, Package] = {}
    directories: set[str] = set()
    for package, paths in claims.items():
        if package[0] == "conda":
            placed.update((path, package) for path in paths if (package, path) not in lost)
    directories.update(parent for path in placed for parent in parents(path))
    for package, paths in claims.items():
        if package[0] == "conda":
            continue
        for path in paths:
            below = [each for each in placed if each.startswith(f"{path}/")] if path in directories else ()
            for each in (path, *parents(path), *below):
                if placed.get(each, package) != package:
                    lost[placed.pop(each), each] = package
        placed.update(dict.fromkeys(paths, package))
        directories.update(parent for path in paths for parent in parents(path))


_NO_PYTHON = "lib/python3/site-packages"


class Clobber(NamedTuple):
    """A path that two packages bring, with another content each."""

    path: str
    winner: Package
    loser: Package


class Layout(NamedTuple):
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

    return resolve(paths, order)


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
            placed[kept_at(package[1], path)] = file
    return placed
