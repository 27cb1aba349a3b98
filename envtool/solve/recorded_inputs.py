"""The inputs of a lock, recorded in it so that it can be compared with its sources without solving: everything that
changes a solve, and neither comments nor blanks, the order of lines or mirrors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from envtool.spec import pip_requirements
from envtool.spec.environment import Dependency, EnvironmentSpec, PlatformSpec, package_name

_FORMAT = 1
_NAMED = ("variable", "virtual package", "exclude-newer-package", "exclude-newer-channel")
_AROUND_OPERATORS = re.compile(r"\s*([,|<>=!~]+)\s*")


class Item(NamedTuple):
    """One thing that a lock depends on (`name`: which of its kind: the package, the variable)."""

    kind: str
    name: str
    value: str
    category: str = "main"


class Change(NamedTuple):
    """One difference between the sources and the lock."""

    kind: str
    what: str
    before: str | None  # what the lock was made from; None when it is new
    after: str | None  # what the sources say; None when it is gone
    place: str | None  # where the sources say it; None when it is gone
    platforms: tuple[str, ...] = ()  # the platforms that it is about; empty when it is about all

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        only = f" ({', '.join(self.platforms)})" if self.platforms else ""
        if self.kind == "changed":
            return f"{where}{self.what} changed: {self.before} → {self.after}{only}"
        return f"{where}{self.what} {self.kind}: {self.after or self.before}{only}"


def serialize(spec: EnvironmentSpec, options: Mapping[str, str]) -> str:
    """The inputs of a lock, with the options of the command line (`strategy`), as text for its custom_metadata."""
    # One item on a line, so that a change of one line of the sources is a change of few lines of the lock.
    rows = {platform.platform: f"[\n{_rows(_of(platform))}]" for platform in spec.platforms}
    sections = ",\n".join(f"{json.dumps(name)}: {text}" for name, text in sorted(rows.items()))
    head = f'{{"format": {_FORMAT},\n"options": {json.dumps(dict(options), sort_keys=True)},\n'
    return f'{head}"general": [\n{_rows(_general(spec))}],\n"platforms": {{\n{sections}}}}}\n'


def _rows(items: Iterable[tuple[Item, str]]) -> str:
    rows = sorted({item for item, _ in items})
    return ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def compare(recorded: str, spec: EnvironmentSpec, options: Mapping[str, str]) -> list[Change]:
    """The differences between the sources and the inputs of a lock; an option that is not given is as it was."""
    old: dict[str, Any] = json.loads(recorded)
    if old.get("format") != _FORMAT:
        return [Change("changed", "format of the inputs", str(old.get("format")), str(_FORMAT), None)]
    changes = list(_diff(_items(old["general"]), dict(_general(spec)), ()))
    before, after = set(old["platforms"]), {each.platform for each in spec.platforms}
    changes += [Change("removed", "platform", each, None, None) for each in sorted(before - after)]
    changes += [Change("added", "platform", None, each, str(spec.paths[0])) for each in sorted(after - before)]
    for platform in spec.platforms:
        if platform.platform in before:
            recorded_items = _items(old["platforms"][platform.platform])
            changes += _diff(recorded_items, dict(_of(platform)), (platform.platform,))
    for name, value in options.items():
        if old["options"].get(name) != value:
            changes.append(Change("changed", f"--{name}", old["options"].get(name, "not given"), value, "command line"))
    groups: dict[tuple[Any, ...], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.kind, change.what, change.before, change.after, change.place), []).append(change)
    grouped = []
    for members in groups.values():
        platforms = tuple(dict.fromkeys(name for member in members for name in member.platforms))
        grouped.append(members[0]._replace(platforms=() if len(platforms) == len(before & after) else platforms))
    return grouped


def unchanged_wheels(recorded: str | None, platform: PlatformSpec) -> frozenset[str]:
    """The distributions that are asked for in the very words of a lock; none where another tool made it."""
    rows: list[list[str]] = json.loads(recorded)["platforms"].get(platform.platform, []) if recorded else []
    before = set(_items(rows))
    items = (_requirement("pip dependency", each) for each in platform.pip)
    return frozenset(item.name for item in items if item in before)


def _general(spec: EnvironmentSpec) -> Iterator[tuple[Item, str]]:
    first = str(spec.paths[0])
    yield Item("channels", "", ", ".join(spec.channels)), first
    for name, value in spec.variables.items():
        yield Item("variable", name, value), first
    singles = [
        ("package index", "", spec.pip_index),
        ("pip-repositories", "", ", ".join(spec.pip_repositories)),
        ("allow-pypi-requests", "", not spec.allows_default_index and "false"),
        ("option of pip", "--pre", spec.allows_prereleases and "--pre"),
        ("option of pip", "--require-hashes", spec.requires_hashes and "--require-hashes"),
        ("exclude-newer", "", spec.exclude_newer),
        ("run-link-scripts", "", ", ".join(spec.run_link_scripts)),
    ]
    yield from ((Item(kind, name, value), first) for kind, name, value in singles if value)
    for kind in ("package", "channel"):
        for name, value in getattr(spec, f"exclude_newer_{kind}").items():
            yield Item(f"exclude-newer-{kind}", name, value), first


def _of(platform: PlatformSpec) -> Iterator[tuple[Item, str]]:
    for each in platform.conda:
        yield Item("dependency", package_name(each.text) or "", _match_spec(each.text), each.category), each.place
    for each in platform.pip:
        yield _requirement("pip dependency", each), each.place
    for constraint in platform.pip_constraints:
        yield _requirement("pip constraint", constraint), constraint.place
    for name, value in platform.virtual_packages.items():
        yield Item("virtual package", name, value), platform.declared_at.get(name, "")


def _match_spec(text: str) -> str:
    name = package_name(text) or ""
    collapsed = _AROUND_OPERATORS.sub(r"\1", " ".join(text.split()))
    return re.sub(rf"(?i)(^|::|:){re.escape(name)}(?![\w.-])", rf"\g<1>{name}", collapsed, count=1)


def _requirement(kind: str, dependency: Dependency) -> Item:
    from packaging.requirements import Requirement

    bare, pinned = pip_requirements.split_hashes(dependency.text)
    requirement = Requirement(bare)
    requirement.name = pip_requirements.name_of(bare) or requirement.name
    value = str(requirement) + "".join(f" --hash={each}" for each in sorted(pinned))
    return Item(kind, requirement.name, value, dependency.category)


def _items(rows: Sequence[Sequence[str]]) -> dict[Item, str]:
    return {Item(*row): "" for row in rows}


def _diff(before: Mapping[Item, str], after: Mapping[Item, str], platforms: tuple[str, ...]) -> Iterator[Change]:
    gone = [each for each in before if each not in after]
    for item, place in after.items():
        if item in before:
            continue
        old = next((each for each in gone if (each.kind, each.name) == (item.kind, item.name)), None)
        if old is not None:
            gone.remove(old)
        kind = "added" if old is None else "changed"
        yield Change(kind, item.kind, _text(old) if old else None, _text(item), place, platforms)
    for item in gone:
        yield Change("removed", item.kind, _text(item), None, None, platforms)


def _text(item: Item) -> str:
    text = item.value if not item.name or item.kind not in _NAMED else f"{item.name}={item.value}"
    return text if item.category == "main" else f"{text} [{item.category}]"
