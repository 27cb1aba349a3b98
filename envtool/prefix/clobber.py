"""Paths that several packages of one lock bring: which of them each path is taken from, decided by the packages alone.
Of two conda packages the one that is linked later wins, as with py-rattler, and what loses lies in
`__clobbers__/PACKAGE/`. Wheels come after, in the order of the lock, as pip installs them, and the last one wins.
Source: rattler's crates `path_resolver` and `rattler::install::clobber_registry`."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from envtool.artifacts.stated_paths import CLOBBERS

# Manager and name.
Package = tuple[str, str]
# The path of a package that is not taken from it, and the package that it is taken from.
Lost = Mapping[tuple[Package, str], Package]


def kept_at(name: str, path: str) -> str:
    """Where the file of a conda package lies whose path another conda package has won."""
    return f"{CLOBBERS}/{name}/{path}"


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
