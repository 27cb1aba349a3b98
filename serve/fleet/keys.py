"""Keys that hosts share: values with revisions, transactions, and leases that end when nobody renews them.

It is etcd's model (etcd.io, API reference 3.4): each change raises one revision, an item knows the revision that
changed it last, and a transaction is carried out whole, if all that it rests on is as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from serve.errors import FleetError


class Item(NamedTuple):
    """A value: the revisions that made its key and wrote it last, and the lease with whose end it goes (0: none)."""

    value: str
    created: int
    changed: int
    lease: int = 0


class Snapshot(NamedTuple):
    """All items of what was read, at one revision."""

    revision: int
    items: Mapping[str, Item]


class Change(NamedTuple):
    """What a revision made of a key (`None`: it is gone), and the revision that had changed it last before, or 0."""

    key: str
    revision: int
    item: Item | None
    before: int


def follow(snapshot: Snapshot, changes: Iterable[Change], read: int) -> Snapshot | None:
    """Return a snapshot with the changes that a watch tells of; `None` where one was lost on the way, or overtaken.

    `read`: the revision of the last read, which has what is older.
    """
    items, revision = dict(snapshot.items), snapshot.revision
    for key, changed, item, before in changes:
        known = items[key].changed if key in items else 0
        if changed <= read or known >= changed:
            continue
        if known != before or changed < revision:
            return None
        revision = changed
        if item is None:
            items.pop(key, None)
        else:
            items[key] = item
    return Snapshot(revision, items)


@dataclass(frozen=True)
class Transaction:
    """Changes that are made together, or not at all.

    Args:
        unchanged: keys, and the revision that must have changed each last; 0 where there must be none.
        quiet: prefixes below which nothing may have been written after a revision.
        puts: values by key.
        leased: values by key that go with `lease`.
    """

    unchanged: Mapping[str, int] = field(default_factory=dict)
    quiet: Mapping[str, int] = field(default_factory=dict)
    puts: Mapping[str, str] = field(default_factory=dict)
    leased: Mapping[str, str] = field(default_factory=dict)
    lease: int = 0
    deletes: tuple[str, ...] = ()


class LeaseLostError(FleetError):
    """The lease has ended, whoever ended it."""
