"""What hosts tell each other, as frozen values, and their form in the shared keys.

Below `PREFIX/MODEL/LABEL/`; all hosts follow what is below "now/", the driver what is below "hosts/" and "roster/" too:

    away/HOST              why a host is not taken in, for people
    hosts/HOST             the beat of a host, with its lease
    roster/HOST            who must be prepared, without a lease: written at each join, deleted at each leave
    now/committed          the entry of the newest generation; the commit of a fleet is the write of it
    now/proposal           what all hosts are to prepare. Its number is the revision that made it, its round the one
                           that last changed it, so neither comes twice
    now/refused/SHA256     why, for the time of a lease, in which each host takes over what is lasting
    now/driver             who makes proposals go on, with its lease; every host can, and safety does not rest on it
    now/pin                why there are no automatic moves
    entry/NUMBER           every generation
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

from serve.fleet.keys import Item, Snapshot, Transaction
from serve.store.ledger import Entry

PROTOCOL = "1"
AWAY, ENTRIES, HOSTS, NOW, ROSTER = "away/", "entry/", "hosts/", "now/", "roster/"
# Between the first and the last, in the order of keys, is nothing else: one watch is over all of them.
ALL = (HOSTS, NOW, ROSTER)
COMMITTED, PROPOSAL, DRIVER, PIN, REFUSED = "now/committed", "now/proposal", "now/driver", "now/pin", "now/refused/"
PREPARE, FENCE = "prepare", "fence"
# The gate of a host that has not joined; rounds are revisions, and higher.
SHUT = 1


@dataclass(frozen=True)
class Member:
    """A host that must be prepared."""

    incarnation: int  # a number that each start of its server draws anew
    place: str = ""  # machine, boot and store, so that two of one name do not take each other for themselves
    terms: Mapping[str, str] = field(default_factory=dict)  # what must be the same on all hosts, by name


@dataclass(frozen=True)
class Failure:
    """Why a host does not prepare the proposal of a number; lasting where it is the bytes' fault."""

    number: int
    reason: str
    is_lasting: bool


@dataclass(frozen=True)
class Beat:
    """What a host tells of itself."""

    incarnation: int
    live: int = 0  # the generation that it answers with; -1 while some worker does not
    prepared: int = 0  # the number of the proposal that all its workers stand by with, or 0
    fenced: int = 0  # the round for which its gate is shut, or 0
    failed: Failure | None = None


class Proposed(NamedTuple):
    """The open proposal."""

    entry: Entry
    phase: str
    number: int
    round: int


@dataclass(frozen=True)
class View:
    """The fleet at one revision."""

    revision: int
    items: Mapping[str, Item]
    committed: Entry | None
    proposal: Proposed | None
    beats: Mapping[str, Beat]
    roster: Mapping[str, Member]
    refused: Mapping[str, Failure]

    @property
    def generation(self) -> int:
        """The number of what is committed, or 0."""
        return self.committed.generation if self.committed is not None else 0

    def beat_of(self, host: str) -> Beat | None:
        """Return the beat of a host of the roster, unless it is an earlier incarnation's."""
        beat, member = self.beats.get(host), self.roster.get(host)
        return beat if beat is not None and member is not None and beat.incarnation == member.incarnation else None

    def has(self, host: str, me: Member) -> bool:
        """Whether a host is in the roster, as this incarnation of it."""
        mine = self.roster.get(host)
        return mine is not None and mine.incarnation == me.incarnation

    def changed(self, key: str) -> int:
        """Return the revision that changed a key last; 0 where there is none."""
        return self.items[key].changed if key in self.items else 0

    def text(self, key: str) -> str:
        """Return the value of a key; empty where there is none."""
        return self.items[key].value if key in self.items else ""

    @classmethod
    def parse(cls, snapshot: Snapshot) -> View:
        """Read what was read; keys of a newer version are passed over."""
        items, proposal = snapshot.items, None
        if PROPOSAL in items:
            stated, item = json.loads(items[PROPOSAL].value), items[PROPOSAL]
            proposal = Proposed(_read(Entry, stated["entry"]), stated["phase"], item.created, item.changed)
        committed = _parse(Entry, items[COMMITTED].value) if COMMITTED in items else None
        found = (_below(items, kind, prefix) for kind, prefix in ((Beat, HOSTS), (Member, ROSTER), (Failure, REFUSED)))
        return cls(snapshot.revision, items, committed, proposal, *found)


def write(value: Beat | Member | Failure | Entry) -> str:
    """Write a value for its key."""
    return json.dumps(asdict(value))


def write_proposal(entry: Entry, phase: str) -> str:
    """Write the value of `proposal`."""
    return json.dumps({"entry": asdict(entry), "phase": phase})


def propose(view: View, proposed: Entry, bad: Failure | None = None, lease: int = 0) -> Transaction:
    """Return the transaction by which a host proposes the next generation; `bad`: why what is committed has to go."""
    entry = replace(proposed, generation=view.generation + 1, committed="")
    asked = {key: view.changed(key) for key in (PROPOSAL, COMMITTED)}
    leased = {REFUSED + view.committed.sha256: write(bad)} if bad is not None and view.committed is not None else {}
    return Transaction(asked, {}, {PROPOSAL: write_proposal(entry, PREPARE)}, leased, lease)


def name_entry(generation: int) -> str:
    """Return the key of a generation; their order is that of the generations."""
    return f"{ENTRIES}{generation:012d}"


def read_entries(snapshot: Snapshot) -> list[Entry]:
    """Read what is below "entry/", the oldest first."""
    return [_parse(Entry, snapshot.items[key].value) for key in sorted(snapshot.items)]


def is_same(one: Entry, other: Entry) -> bool:
    """Whether two entries are the same generation; times differ from host to host."""
    return (one.generation, one.fingerprint) == (other.generation, other.fingerprint) and one.has_same_content(other)


def _read(kind: Any, stated: Mapping[str, Any]) -> Any:
    found = {known.name: stated[known.name] for known in fields(kind) if known.name in stated}
    return kind(**{**found, "failed": _read(Failure, found["failed"])} if found.get("failed") else found)


# Most of what a driver sees it has seen before.
@functools.lru_cache(maxsize=4096)
def _parse(kind: Any, text: str) -> Any:
    return _read(kind, json.loads(text))


def _below(items: Mapping[str, Item], kind: Any, prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: _parse(kind, item.value) for key, item in items.items() if key.startswith(prefix)}
