"""The categories of a locked package: those of the lines that need it, directly or through others.

The rule is conda-lock's: what `main` needs is `main` only; anything else has an entry for each category that needs it.
Source: conda_lock/lockfile/__init__.py, `apply_categories`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envtool.solve.solution import Solution
from envtool.spec import pip_requirements
from envtool.spec.environment import PlatformSpec, package_name

Key = tuple[str, str]


def categories(spec: PlatformSpec, solution: Solution) -> dict[Key, tuple[str, ...]]:
    """The categories of every package of a solution, by (manager, name)."""
    edges = dependency_edges(solution)
    by_category: dict[str, set[Key]] = {}
    for category, roots in _roots(spec, solution).items():
        by_category[category] = _reachable(roots, edges)
    main = by_category.get("main", set())
    found = {}
    for key in edges:
        others = tuple(sorted(category for category, keys in by_category.items() if key in keys))
        found[key] = ("main",) if key in main or not others else others
    return found


def dependency_edges(solution: Solution) -> dict[Key, tuple[Key, ...]]:
    """What each package of a solution needs, by (manager, name); virtual packages are left out."""
    conda = {each.name for each in solution.records}
    by_distribution = _by_distribution(solution)
    edges: dict[Key, tuple[Key, ...]] = {}
    for record in solution.records:
        names = dict.fromkeys(spec.split()[0].lower() for spec in record.depends)
        edges["conda", record.name] = tuple(("conda", name) for name in names if name in conda)
    for wheel in solution.wheels:
        edges["pip", wheel.name] = tuple(by_distribution[name] for name in wheel.needs if name in by_distribution)
    return edges


def _by_distribution(solution: Solution) -> dict[str, Key]:
    found = {distribution: ("conda", name) for distribution, name in solution.provided.items()}
    return {**found, **{each.name: ("pip", each.name) for each in solution.wheels}}


def _roots(spec: PlatformSpec, solution: Solution) -> dict[str, list[Key]]:
    by_distribution = _by_distribution(solution)
    roots: dict[str, list[Key]] = {}
    for dependency in spec.conda:
        roots.setdefault(dependency.category, []).append(("conda", package_name(dependency.text) or ""))
    for dependency in spec.pip:
        key = by_distribution.get(pip_requirements.name_of(dependency.text) or "")
        if key is not None:  # a marker may have taken it away
            roots.setdefault(dependency.category, []).append(key)
    return roots


def _reachable(roots: Iterable[Key], edges: Mapping[Key, tuple[Key, ...]]) -> set[Key]:
    seen: set[Key] = set()
    todo = list(roots)
    while todo:
        key = todo.pop()
        if key in edges and key not in seen:
            seen.add(key)
            todo += edges[key]
    return seen
