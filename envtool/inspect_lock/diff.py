"""The differences between two locks, package by package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from envtool import console
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile
from envtool.solve import conda_solver

KINDS = ("added", "removed", "upgraded", "downgraded", "rebuilt")
Key = tuple[str, str, str]


class Difference(NamedTuple):
    """One package that is not the same in two locks."""

    kind: str  # `added`, `removed`, `upgraded`, `downgraded`, or `rebuilt` (the same version, other bytes)
    manager: str
    name: str
    before: str | None  # version, and build where it is what differs; None when the package is new
    after: str | None  # the same in the second lock; None when the package is gone
    platforms: tuple[str, ...]  # the platforms on which it differs in this way


def compare(old: Lockfile, new: Lockfile, order: Callable[[str, str, str], int]) -> list[Difference]:
    """Every package that differs, sorted by name; one entry for all the platforms where it differs alike."""
    before, after = ({(p.manager, p.name, p.platform): p for p in lock.packages} for lock in (old, new))
    merged: dict[Difference, list[str]] = {}
    for key in sorted(before.keys() | after.keys()):
        found = _difference(before.get(key), after.get(key), order)
        if found is not None:
            merged.setdefault(found, []).append(key[2])
    found_all = [each._replace(platforms=tuple(sorted(platforms))) for each, platforms in merged.items()]
    return sorted(found_all, key=lambda each: (each.name, each.manager, each.platforms))


def compare_versions(manager: str, first: str, second: str) -> int:
    """The order of two versions of a manager: negative when the first is the older one, 0 when they are equal."""
    if manager == "conda":
        return conda_solver.compare_versions(first, second)
    from packaging.version import Version

    return (Version(first) > Version(second)) - (Version(first) < Version(second))


def _difference(
    old: LockedPackage | None, new: LockedPackage | None, order: Callable[[str, str, str], int]
) -> Difference | None:
    if old is None and new is not None:
        return Difference("added", new.manager, new.name, None, new.version, ())
    if new is None and old is not None:
        return Difference("removed", old.manager, old.name, old.version, None, ())
    if old is None or new is None or _is_same(old, new):
        return None
    if old.version == new.version:
        return Difference("rebuilt", new.manager, new.name, _with_build(old), _with_build(new), ())
    kind = "upgraded" if order(new.manager, old.version, new.version) <= 0 else "downgraded"
    return Difference(kind, new.manager, new.name, old.version, new.version, ())


def _is_same(old: LockedPackage, new: LockedPackage) -> bool:
    for one, other in ((old.sha256, new.sha256), (old.md5, new.md5)):
        if one and other:
            return one == other
    return old.url == new.url


def _with_build(package: LockedPackage) -> str:
    build = package.build_string
    return f"{package.version} {build}" if build else package.version


def summary(differences: Sequence[Difference]) -> str:
    """How many packages there are of each kind, in words."""
    counts = {kind: sum(difference.kind == kind for difference in differences) for kind in KINDS}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no difference"


def as_markdown(differences: Sequence[Difference], platforms: Sequence[str]) -> str:
    """The differences as a table for a pull request."""
    rows = ["| package | change | before | after | platforms |", "|---|---|---|---|---|"]
    for difference in differences:
        name = f"{difference.name} (pip)" if difference.manager == "pip" else difference.name
        cells = [name, difference.kind, difference.before or "", difference.after or "", where(difference, platforms)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return f"{summary(differences)}\n\n" + "\n".join(rows) if differences else summary(differences)


def as_table(differences: Sequence[Difference], platforms: Sequence[str]) -> str:
    """The differences as lines for a terminal."""
    rows = []
    for difference in differences:
        name = f"{difference.name} (pip)" if difference.manager == "pip" else difference.name
        change = " → ".join(text for text in (difference.before, difference.after) if text)
        rows.append((difference.kind, name, change, where(difference, platforms)))
    return "\n".join(console.table(rows))


def where(difference: Difference, platforms: Sequence[str]) -> str:
    """The platforms in words; empty when it is all of them."""
    return "" if set(difference.platforms) == set(platforms) else ", ".join(difference.platforms)
