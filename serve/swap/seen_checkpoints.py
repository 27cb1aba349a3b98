"""One worker's memory between two looks at the watched place.

Kept by path, so that it stays as small as the place is. Does no I/O and reads no clock. What was refused is the whole
host's matter: `serve.store.quarantine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from serve.source.local import Listed
from serve.source.observation import Known, Observation
from serve.store.ledger import CHECKPOINT, ROLLBACK, Entry

Order = tuple[int, int, str]


@dataclass(frozen=True)
class _Record:
    fingerprint: str
    first_seen_s: float
    # The generation that was live when this state replaced another one; 0 where it was the first that was seen.
    generation: int


class SeenCheckpoints:
    """When what was seen first, what is live, what was live already, and which markers came since."""

    def __init__(self) -> None:
        self._records: dict[Path, _Record] = {}
        self._answering: Entry | None = None
        self._served: set[str] = set()
        self._withdrawn: str | None = None
        self._order: Order | None = None
        self._listed: Sequence[Listed] | None = None
        self._listed_under = 0
        self._late: dict[Path, Listed] = {}

    @property
    def answering(self) -> Entry | None:
        """The generation that is live in this worker."""
        return self._answering

    @property
    def order(self) -> Order | None:
        """The highest rank that ever was live."""
        return self._order

    @property
    def generation(self) -> int:
        """The number of the generation that is live, or 0."""
        return self._answering.generation if self._answering is not None else 0

    def learn(self, committed: Sequence[Entry]) -> None:
        """Learn of the generations up to the live one."""
        known = self.generation
        if not committed or committed[-1].generation == known:
            return
        last = committed[-1]
        for entry in committed:
            if entry.generation > known:
                self._order = entry.order if self._order is None else max(self._order, entry.order)
        self._answering, self._late = last, {}
        self._served = {entry.fingerprint for entry in committed if entry.has_same_content(last)}
        replaced = next((entry for entry in reversed(committed) if entry.cause == CHECKPOINT), None)
        is_rollback = last.cause == ROLLBACK and replaced is not None and not replaced.has_same_content(last)
        self._withdrawn = replaced.fingerprint if is_rollback and replaced is not None else None

    def serve(self, fingerprint: str, order: Order) -> None:
        """Remember that an observation has the content of what is live."""
        self._served.add(fingerprint)
        self._order = order if self._order is None else max(self._order, order)

    def compare(self, listed: Sequence[Listed], read_last: Callable[[], Mapping[str, str] | None]) -> None:
        """Find the markers that came after what is live, though their rank is lower.

        Args:
            listed: the markers at the place, the highest rank first.
            read_last: tells what was there when a server of this store looked last, the state of each marker by name.
        """
        if listed is self._listed:
            self._listed_under = self.generation
            return
        there = {one.path: one.marker for one in listed}
        self._late = {path: one for path, one in self._late.items() if there.get(path) == one.marker}
        if self._order is not None:
            for one in self._find_new(listed, read_last):
                if one.order < self._order:
                    self._late[one.path] = one
        self._listed, self._listed_under = listed, self.generation

    def _find_new(self, listed: Sequence[Listed], read_last: Callable[[], Mapping[str, str] | None]) -> list[Listed]:
        if self._listed is None:
            last = read_last()
            return [] if last is None else [one for one in listed if last.get(one.path.name) != repr(one.marker)]
        before = {one.path: one.marker for one in self._listed}
        # What came together with what is live was there before it, as far as anybody knows.
        is_known = self._listed_under == self.generation or any(one.order == self._order for one in self._listed)
        return [one for one in listed if before.get(one.path) != one.marker] if is_known else []

    def late(self) -> list[Listed]:
        """Return the markers that came after what is live, though their rank is lower."""
        return list(self._late.values())

    def first_seen_s(self, seen: Observation) -> float:
        """When an observation that was recalled was first made, on the monotonic clock."""
        return self._records[seen.path].first_seen_s

    def recall(self, seen: Observation, is_ranked: bool, now_s: float, refusal: str | None) -> Known:
        """Return what is known of an observation, and remember that it was made.

        Args:
            is_ranked: whether an older marker gives way to a newer one, as in a directory of checkpoints.
        """
        record = self._records.get(seen.path)
        if record is None or record.fingerprint != seen.fingerprint:
            generation = self.generation if record is not None else 0
            record = self._records[seen.path] = _Record(seen.fingerprint, now_s, generation)
        is_changed = record.generation == self.generation != 0
        return Known(
            served=seen.fingerprint if seen.fingerprint in self._served else None,
            served_order=self._order if is_ranked else None,
            first_seen_s=record.first_seen_s,
            refusal=refusal,
            answering=describe(self._answering),
            is_withdrawn=seen.fingerprint == self._withdrawn and not is_changed,
        )


def describe(answering: Entry | None) -> str:
    """Name what is live."""
    return "nothing" if answering is None else f"version {answering.version} ({answering.name})"
