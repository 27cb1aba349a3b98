"""Paths that several packages of one lock bring: which of them each path is taken from.

Nothing but the packages decides, so that one lock always gives one environment. Among conda packages py-rattler's rule
holds: of two packages the one that comes later in the topological order of the dependencies wins, and what loses lies
in `__clobbers__/PACKAGE/`, from where py-rattler takes it back. Wheels come after all conda packages, one after the
other in the order of the lock, as pip installs them, and the last one wins.

Source: rattler's crates `path_resolver`, `rattler::install::clobber_registry`, and
`rattler_conda_types::repo_data::topological_sort`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from envtool.artifacts.stated_paths import CLOBBERS

# Manager and name.
Package = tuple[str, str]
# The path of a package that is not taken from it, and the package that it is taken from.
Lost = Mapping[tuple[Package, str], Package]


def kept_at(name: str, path: str) -> str:
    """Where the file of a conda package lies whose path another conda package has won."""
    return f"{CLOBBERS}/{name}/{path}"


def resolve(brought: Mapping[Package, Collection[str]], conda_order: Callable[[], Sequence[str]]) -> Lost:
    """Decide whose every path is. `conda_order` gives the names of the conda packages in topological order; it is asked
    for only if two of them share a path."""
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


def topological_order(depends: Mapping[str, Sequence[str]], noarch: Collection[str]) -> list[str]:
    """The order in which py-rattler links packages: each one after those that it needs."""
    needs = {name: [name_of(spec) for spec in specs] for name, specs in depends.items()}
    broken = _broken_edges(_cycles(needs), noarch)
    kept = {name: sorted(each for each in found if (name, each) not in broken) for name, found in needs.items()}
    roots = sorted(kept.keys() - {each for found in kept.values() for each in found})
    order: list[str] = []
    seen: set[str] = set()
    while len(order) < len(kept):
        stack = [(name, False) for name in roots]
        while stack:
            name, is_resolved = stack.pop()
            if is_resolved:
                order.append(name)
            elif name not in seen and name in kept:
                seen.add(name)
                stack.append((name, True))
                stack += [(each, False) for each in kept[name]]
        roots = sorted(kept.keys() - seen)  # cycles that nothing outside of them leads to
    return order


def name_of(match_spec: str) -> str:
    """The normalized name of the package that a match spec is about, as py-rattler takes it for its order."""
    return re.split(r"[\s=<>!~;\[]", match_spec, maxsplit=1)[0].lower()


def _cycles(needs: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    visited: set[str] = set()
    for start in sorted(needs):
        path: dict[str, Iterator[str]] = {}
        waiting = iter([start])
        stack = [waiting]
        while stack:
            name = next(stack[-1], None)
            if name is None:
                stack.pop()
                if path:
                    path.popitem()
            elif name in path:
                names = list(path)
                yield names[names.index(name) :]
            elif name not in visited:
                visited.add(name)
                path[name] = iter(needs.get(name, ()))
                stack.append(path[name])


def _broken_edges(cycles: Iterable[Sequence[str]], noarch: Collection[str]) -> set[tuple[str, str]]:
    broken = set()
    for cycle in cycles:
        for first, second in zip(cycle, [*cycle[1:], cycle[0]]):
            if first not in noarch and second in noarch:
                broken.add((first, second))
                break
            if (first in noarch and second not in noarch) or first == cycle[-1]:
                broken.add((second, first))
                break
    return broken
