"""The inputs of a solve beside the specification, its result, and the search for one that holds most of an old lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from envtool.console import ProgressDisplay
from envtool.errors import SolveError
from envtool.lockfile.model import LockedPackage
from envtool.mirrors.mirrors import Mirrors
from envtool.solve.conda_solver import PackageRecord, Repodata
from envtool.spec import pip_requirements
from envtool.spec.environment import PlatformSpec, package_name


class Preference(NamedTuple):
    """What a solve of one platform should come to, beside what is asked for."""

    # canonical URLs of archives that stay unless something asked for forbids it; those of packages that a line asks for
    # by name come first
    keep: tuple[str, ...] = ()
    keep_wheels: tuple[LockedPackage, ...] = ()
    constraints: tuple[str, ...] = ()
    pip_constraints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sources:
    """Where packages come from."""

    repodata: Repodata
    mirrors: Mirrors = field(default_factory=Mirrors)
    display: ProgressDisplay = field(default_factory=ProgressDisplay)


@dataclass(frozen=True)
class Solution:
    """The packages of one platform."""

    platform: str
    records: tuple[PackageRecord, ...]
    wheels: tuple[LockedPackage, ...] = ()  # the wheels of the `pip:` section, sorted by name
    # the Python distributions that conda packages bring, each with its package; where there are wheels
    provided: Mapping[str, str] = field(default_factory=dict)


class SolveErrors(SolveError):
    """Several platforms that cannot be satisfied (`errors`: their errors, in the order of the platforms)."""

    def __init__(self, errors: Sequence[SolveError]) -> None:
        super().__init__("\n".join(error.message for error in errors), errors[0].hint)
        self.errors = tuple(errors)


_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def hold_most(
    important: Sequence[_Item], others: Sequence[_Item],
    attempts: Callable[[Sequence[Sequence[_Item]]], Sequence[_Answer | None]], stays: Callable[[_Item, _Answer], bool],
) -> _Answer | None:  # fmt: skip
    """An answer that holds as many items as possible, all the important ones first; None if there is none even with
    nothing held. `attempts` gives, for each of several selections, an answer that holds all of it or None (and not all
    of `others` can be held); `stays` tells whether an answer happens to have an item that it was not made to hold."""
    first = next((attempt for attempt in attempts([important, ()] if important else [()]) if attempt is not None), None)
    if first is None:
        return None
    answer: _Answer = first
    items = [*important, *others]
    held = [item for item in items if stays(item, first)]

    def add(candidates: Sequence[_Item], is_refused: bool) -> None:
        nonlocal answer
        found = None if is_refused or not candidates else attempts([[*held, *candidates]])[0]
        if found is not None:
            held.extend(candidates)
            answer = found
        elif len(candidates) > 1:
            middle, before = len(candidates) // 2, len(held)
            add(candidates[:middle], False)
            # Where the first half could be held as a whole, the second alone is to blame.
            add(candidates[middle:], is_refused=len(held) == before + middle)

    free = [each for each in items if not stays(each, first)]
    # What cannot stay by itself cannot stay with others either; most of what moves is found so, all at once.
    alone = attempts([[*held, each] for each in free])
    possible = [each for each, found in zip(free, alone) if found is not None]
    add(possible, is_refused=possible == free)
    return answer


Key = tuple[str, str]


def categories(spec: PlatformSpec, solution: Solution) -> dict[Key, tuple[str, ...]]:
    """The categories of every package of a solution, by (manager, name)."""
    edges, by_distribution = dependency_edges(solution), _by_distribution(solution)
    todo = [(("conda", package_name(each.text) or ""), each.category) for each in spec.conda]
    for each in spec.pip:
        key = by_distribution.get(pip_requirements.name_of(each.text) or "")
        todo += [(key, each.category)] if key else []  # a marker may have taken it away
    found: dict[Key, set[str]] = {key: set() for key in edges}
    while todo:
        key, category = todo.pop()
        if key in edges and category not in found[key]:
            found[key].add(category)
            todo += [(needed, category) for needed in edges[key]]
    return {key: ("main",) if "main" in names or not names else tuple(sorted(names)) for key, names in found.items()}


def dependency_edges(solution: Solution) -> dict[Key, tuple[Key, ...]]:
    """What each package of a solution needs, by (manager, name); virtual packages are left out."""
    conda = {each.name for each in solution.records}
    by_distribution = _by_distribution(solution)
    edges: dict[Key, tuple[Key, ...]] = {}
    for record in solution.records:
        names = dict.fromkeys(spec.split()[0].lower() for spec in record.depends)
        edges["conda", record.name] = tuple(("conda", name) for name in names if name in conda)
    for wheel in solution.wheels:
        edges["pip", wheel.name] = tuple(
            by_distribution[name] for name in wheel.dependencies if name in by_distribution
        )
    return edges


def _by_distribution(solution: Solution) -> dict[str, Key]:
    found = {distribution: ("conda", name) for distribution, name in solution.provided.items()}
    return {**found, **{wheel.name: ("pip", wheel.name) for wheel in solution.wheels}}
