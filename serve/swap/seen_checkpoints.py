"""What one worker remembers between two looks at the watched place.

Kept by path, so that it stays as small as the place is. Does no I/O and reads no clock. What was refused is the whole
host's matter: `serve.store.quarantine`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serve.source.observation import Known, Observation
from serve.store.ledger import Entry

Order = tuple[int, int, str]


@dataclass(frozen=True)
class _Record:
    fingerprint: str
    first_seen_s: float


class Memory:
    """When what was seen first, and what has been live already."""

    def __init__(self) -> None:
        self._records: dict[Path, _Record] = {}
        self._served: set[str] = set()
        self._order: Order | None = None
        self._known_generation = 0

    def learn(self, committed: Iterable[Entry]) -> None:
        """Learn of generations that were live: none of them comes back by itself, be it rolled back or not.

        Args:
            committed: the generations, the oldest first.
        """
        for entry in committed:
            if entry.generation > self._known_generation:
                self._known_generation = entry.generation
                self.serve(entry.fingerprint, entry.order)

    def serve(self, fingerprint: str, order: Order) -> None:
        """Remember what is served.

        Args:
            fingerprint: of its observation.
            order: its rank.
        """
        self._served.add(fingerprint)
        self._order = order if self._order is None else max(self._order, order)

    def recall(self, seen: Observation, is_ranked: bool, now_s: float, refusal: str | None) -> Known:
        """Return what is known of an observation, and remember that it was made.

        Args:
            seen: the observation.
            is_ranked: whether an older marker gives way to a newer one, as in a directory of checkpoints.
            now_s: the time on the monotonic clock.
            refusal: why it was refused, if it was.
        """
        record = self._records.get(seen.path)
        if record is None or record.fingerprint != seen.fingerprint:
            record = self._records[seen.path] = _Record(seen.fingerprint, now_s)
        return Known(
            served=seen.fingerprint if seen.fingerprint in self._served else None,
            served_order=self._order if is_ranked else None,
            first_seen_s=record.first_seen_s,
            refusal=refusal,
        )
