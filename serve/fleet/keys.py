"""Keys that hosts share: values with revisions, transactions, and leases that end when nobody renews them.

It is etcd's model (etcd.io, API reference 3.4): each change raises one revision, an item knows the revision that
changed it last, and a transaction is carried out whole, if all that it rests on is as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Callable, NamedTuple

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
    `read`: the revision of the last read, which has what is older."""
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


class Changes:
    """What the last watch that was begun has brought, until somebody takes it; a thread brings it."""

    def __init__(self) -> None:
        self._lock, self._woken, self._watches = threading.Lock(), threading.Event(), 0
        self._found: list[Change] | None = None

    def begin(self, follow: Callable[..., None], *arguments: object) -> None:
        """Begin a watch instead of what was watched: `follow` is run with its number and the arguments."""
        with self._lock:
            self._watches, self._found = self._watches + 1, []
            arguments = (self._watches, *arguments)
        threading.Thread(target=follow, args=arguments, name="fleet-watch", daemon=True).start()

    def note(self, number: int, found: Iterable[Change]) -> bool:
        """Add what a watch has brought, and return whether it is still the last one."""
        with self._lock:
            if self._watches != number or self._found is None:
                return False
            self._found += found
            if self._found:
                self._woken.set()
            return True

    def end(self, number: int) -> None:
        """Note that a watch was cut off."""
        with self._lock:
            if self._watches == number:
                self._found = None
        self._woken.set()

    def take(self) -> list[Change] | None:
        """Return what has changed since the last time; `None` where nothing is watched, or the watch was cut off."""
        with self._lock:
            found, self._found = self._found, None if self._found is None else []
            return found

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is something to take; return whether there is."""
        if not self._woken.wait(timeout_s):
            return False  # what comes now wakes the next wait
        self._woken.clear()
        return True


@dataclass(frozen=True)
class Transaction:
    """Changes that are made together, or not at all."""

    # keys, and the revision that must have changed each last; 0 where there must be none
    unchanged: Mapping[str, int] = field(default_factory=dict)
    quiet: Mapping[str, int] = field(default_factory=dict)  # prefixes below which nothing was written after a revision
    puts: Mapping[str, str] = field(default_factory=dict)
    leased: Mapping[str, str] = field(default_factory=dict)  # what goes with `lease`
    lease: int = 0
    deletes: tuple[str, ...] = ()


class LeaseLostError(FleetError):
    """The lease has ended, whoever ended it."""
