"""The packages of a lock as a tree of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from envtool import console
from envtool.inspect_lock.graph import Graph, Key
from envtool.inspect_lock.package_metadata import PackageMetadata


def lines(graph: Graph, roots: Sequence[Key], facts: Mapping[str, PackageMetadata], depth: int | None) -> Iterator[str]:
    """The lines of a tree; what a package needs is shown where it comes first, and `(*)` stands for it later.

    Args:
        depth: how many levels below the roots; None shows all.
    """
    shown: set[Key] = set()
    for root in roots:
        yield describe(graph, root, facts)
        yield from _below(graph, root, facts, depth, "", shown)


def _below(
    graph: Graph, key: Key, facts: Mapping[str, PackageMetadata], depth: int | None, indent: str, shown: set[Key]
) -> Iterator[str]:
    if depth == 0 or key in shown:
        return
    shown.add(key)
    edges = graph.edges[key]
    for edge in edges:
        is_last = edge is edges[-1]
        is_repeat = edge.target in shown and bool(graph.edges[edge.target])
        branch = "└─ " if is_last else "├─ "
        yield f"{indent}{branch}{describe(graph, edge.target, facts)}{' (*)' if is_repeat else ''}"
        below = indent + ("   " if is_last else "│  ")
        yield from _below(graph, edge.target, facts, None if depth is None else depth - 1, below, shown)


def describe(graph: Graph, key: Key, facts: Mapping[str, PackageMetadata]) -> str:
    """One package: name, version, size where it is known, and whether it is a wheel."""
    package = graph.packages[key]
    size_bytes = facts.get(package.url, PackageMetadata()).size_bytes
    notes = [
        note for note in ("pip" if key[0] == "pip" else "", console.size(size_bytes) if size_bytes else "") if note
    ]
    return f"{package.name} {package.version}" + (f" ({', '.join(notes)})" if notes else "")
