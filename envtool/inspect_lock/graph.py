"""The packages of a lock as a graph of dependencies, with the lines that asked for them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from envtool.lockfile.conda_lock_v1 import INPUTS_KEY, LockedPackage, Lockfile
from envtool.pypi.distributions import distribution_names

Key = tuple[str, str]


@dataclass(frozen=True)
class Graph:
    """The packages of one platform, what each needs, and the lines that asked for some."""

    packages: Mapping[Key, LockedPackage]
    edges: Mapping[Key, Mapping[Key, str]]  # what each needs, with the constraint; empty when any version will do
    requested: Mapping[Key, str]

    def find(self, name: str) -> Key | None:
        """The package of a name as a user writes it."""
        wanted = {name.lower(), distribution_names(name)[0]}
        keys = [key for key in self.packages if wanted & {key[1], *distribution_names(key[1])}]
        return min(keys, default=None)

    @cached_property
    def reversed(self) -> Graph:
        """The same graph with every edge turned round."""
        edges: dict[Key, dict[Key, str]] = {key: {} for key in self.packages}
        for key, needs in self.edges.items():
            for needed, constraint in needs.items():
                edges[needed][key] = constraint
        return Graph(self.packages, edges, self.requested)

    def chains(self, target: Key) -> list[tuple[Key, ...]]:
        """For every requested package that needs the target, the shortest chain from it to the target."""
        chains: dict[Key, tuple[Key, ...]] = {target: (target,)}
        todo = deque([target])
        while todo:
            key = todo.popleft()
            for needing in self.reversed.edges[key]:
                if needing not in chains:
                    chains[needing] = (needing, *chains[key])
                    todo.append(needing)
        found = (chains[root] for root in self.requested if root in chains)
        return sorted(found, key=lambda chain: (len(chain), chain))


def graph(lockfile: Lockfile, platform: str, categories: Sequence[str]) -> Graph:
    """The graph of one platform and some categories of a lock."""
    packages = {(each.manager, each.name): each for each in lockfile.select(platform, categories)}
    by_distribution = {name: key for key in sorted(packages) for name in distribution_names(key[1])}
    edges: dict[Key, dict[Key, str]] = {key: {} for key in packages}
    for key, package in packages.items():
        for name, constraint in sorted(package.dependencies.items()):
            target = ("conda", name) if key[0] == "conda" else by_distribution.get(distribution_names(name)[0])
            if target is not None and target in packages:
                edges[key].setdefault(target, "" if constraint == "*" else constraint)
    recorded = lockfile.custom_metadata.get(INPUTS_KEY)
    rows = json.loads(recorded)["platforms"].get(platform, []) if recorded else []
    requested = {}
    for kind, name, value, _ in rows:
        asked = ("conda", str(name)) if kind == "dependency" else by_distribution.get(distribution_names(name)[0])
        if kind in ("dependency", "pip dependency") and asked is not None and asked in packages:
            requested[asked] = str(value)
    if not recorded:
        # A lock of another tool does not say what was asked for: whatever nothing else needs was.
        needed = {target for needs in edges.values() for target in needs}
        requested = {key: key[1] for key in packages if key not in needed}
    return Graph(packages, edges, requested)
