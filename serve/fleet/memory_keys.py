"""The keys of a fleet in the memory of one process, for hosts that share no etcd.

What has no lease is written down before it is there, so that the next process begins with it. What has one is lost, and
hosts come in again. How others reach the process is not here."""

from __future__ import annotations

import collections
import itertools
import sqlite3
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Callable

from serve.errors import FleetError
from serve.fleet.keys import Change, Item, LeaseLostError, Snapshot, Transaction
from serve.fleet.messages import View
from serve.fleet.state import leave

# Below it, by host, the names of its replicas; none is taken away before it is known to be dead. In the order of keys
# it comes before all that hosts watch.
REPLICAS = "actors/"
_NONE = Item("", 0, 0)
# Those of a process that died may have been higher than what it wrote down.
_NEXT_PROCESS = 2**20
# How many changes a watch may lag behind.
_KEPT_CHANGES = 1000


class Register:
    """What outlives the process: one file, of which each change is lasting when `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(str(path), isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")  # one sync for each change
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, value, created, changed)")

    def read(self) -> tuple[int, dict[str, Item]]:
        """Return the revision to begin with, and the items."""
        rows = self._connection.execute("SELECT key, value, created, changed FROM items").fetchall()
        items = {key: Item(value, created, changed) for key, value, created, changed in rows}
        return items.pop("", _NONE).changed + _NEXT_PROCESS, items

    def write(self, revision: int, puts: Mapping[str, Item], deletes: tuple[str, ...]) -> None:
        """Write a change, all of it or none; raises `FleetError`."""
        rows = [(key, item.value, item.created, item.changed) for key, item in puts.items()]
        try:
            with self._connection:
                self._connection.execute("BEGIN")
                self._connection.executemany("DELETE FROM items WHERE key = ?", [(key,) for key in deletes])
                rows.append(("", "", 0, revision))
                self._connection.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise FleetError(f"the register of the fleet: {error}", hint="has its disk room?") from error


class MemoryKeys:
    """The keys as a dictionary with revisions, and its leases by a clock; for one thread. The register has written down
    what has no lease."""

    def __init__(self, now_s: Callable[[], float], register: Register | None = None) -> None:
        self._now_s, self._register = now_s, register
        self.revision, self._items = (1, {}) if register is None else register.read()
        self._leases: dict[int, tuple[float, float]] = {}
        # Not the numbers of an earlier process: its leases are gone, and its members must notice.
        self._numbers = itertools.count(time.time_ns())
        self._changes: collections.deque[Change] = collections.deque(maxlen=_KEPT_CHANGES)
        self._oldest = self.revision  # the newest revision whose changes are not all kept

    def read(self, *places: str) -> Snapshot:
        """Return keys, and what is below prefixes, which end with a slash or are empty."""
        self.expire()
        exact, prefixes = set(places), tuple(place for place in places if place[-1:] in ("", "/"))
        found = {key: item for key, item in self._items.items() if key in exact or key.startswith(prefixes)}
        return Snapshot(self.revision, found)

    def find_changes(self, first: str, last: str, after: int) -> list[Change] | None:
        """Return what has changed after a revision from one prefix to another; `None` where it is not known."""
        if not self._oldest <= after <= self.revision:
            return None
        end = last[:-1] + chr(ord("/") + 1)
        return [one for one in self._changes if one.revision > after and first <= one.key < end]

    def commit(self, transaction: Transaction) -> int:
        """Carry out a transaction, and return its revision; 0: not all was as it had to be. Raises `LeaseLostError`."""
        self.expire()
        if any(self._items.get(key, _NONE).changed != seen for key, seen in transaction.unchanged.items()):
            return 0
        for prefix, seen in transaction.quiet.items():
            if any(item.changed > seen for key, item in self._items.items() if key.startswith(prefix)):
                return 0
        if transaction.leased and transaction.lease not in self._leases:
            raise LeaseLostError("the lease has ended")
        revision, puts = self.revision + 1, {}
        for lease, values in ((0, transaction.puts), (transaction.lease, transaction.leased)):
            for key, value in values.items():
                puts[key] = Item(value, self._items.get(key, _NONE).created or revision, revision, lease)
        lasting = {key: item for key, item in puts.items() if not item.lease}
        if self._register is not None and (lasting or transaction.deletes):
            self._register.write(revision, lasting, transaction.deletes)
        self._change({**dict.fromkeys(transaction.deletes), **puts})
        return revision

    def grant(self, ttl_s: float) -> tuple[int, float]:
        """Begin a lease; return its number and its seconds."""
        lease = next(self._numbers)
        self._leases[lease] = (ttl_s, self._now_s() + ttl_s)
        return lease, ttl_s

    def keep_alive(self, lease: int) -> int:
        """Renew a lease, and return the revision that the keys are at; 0: there was no lease."""
        self.expire()
        if lease not in self._leases:
            return 0
        ttl_s = self._leases[lease][0]
        self._leases[lease] = (ttl_s, self._now_s() + ttl_s)
        return self.revision

    def revoke(self, lease: int) -> None:
        """End a lease, and with it its items."""
        ended = [key for key, item in self._items.items() if item.lease == lease]
        if self._leases.pop(lease, None) is not None and ended:
            self._change(dict.fromkeys(ended))

    def _change(self, changed: Mapping[str, Item | None]) -> None:
        self.revision += 1
        for key, item in changed.items():
            before = self._items.pop(key, _NONE).changed
            if item is not None:
                self._items[key] = item
            if len(self._changes) == _KEPT_CHANGES:
                self._oldest = self._changes[0].revision
            self._changes.append(Change(key, self.revision, item, before))

    def expire(self) -> None:
        """End the leases that nobody has renewed."""
        for lease in [lease for lease, (_, until_s) in self._leases.items() if self._now_s() > until_s]:
            self.revoke(lease)


def find_gone(view: View, replicas: Collection[str], alive: Collection[str]) -> list[Transaction]:
    """Return how to take those out of the roster that are silent, and of which no replica lives: of all that have ever
    been (`HOST/NAME`, as below `REPLICAS`) none is alive by its name."""
    found = []
    for host in view.roster:
        known = [name for name in replicas if name.startswith(f"{host}/")]
        if view.beat_of(host) is None and known and not {name.partition("/")[2] for name in known} & set(alive):
            gone = leave(view, host)
            found.append(replace(gone, deletes=(*gone.deletes, *(REPLICAS + name for name in known))))
    return found
