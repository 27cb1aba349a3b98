"""The rank that a marker needs among those beside it, so that a server of the directory takes it for the newest.

A server ranks by the stated generation, then by the time of the marker. A clock that runs behind, or markers that came
with times of their own, must not make a new checkpoint an old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

from serve.source.local import Listed, LocalSource
from serve.source.observation import Identity

# Writes the text of a marker for a rank, with what the place states beside it.
WriteMarker = Callable[["Rank", Mapping[str, Any]], bytes]


@dataclass(frozen=True)
class Rank:
    """The rank of a marker to write: later than the one `above`, if any, or `outranked_by` a higher generation."""

    generation: int
    above: Listed | None = None
    outranked_by: str | None = None

    @property
    def after_ns(self) -> int:
        """The time that its time must be later than, in nanoseconds; 0 where any will do."""
        return self.above.marker.mtime_ns if self.above is not None else 0

    def is_high(self, name: str, marker: Identity) -> bool:
        """Whether a marker that was written with this rank outranks the others."""
        order = (self.generation, marker.mtime_ns, name)
        return self.above is None or order > self.above.order


def find_rank(place: LocalSource, generation: int) -> Rank:
    """Find the rank that outranks the markers of a place; without a generation of its own it takes over the highest."""
    highest = max(place.list(), key=lambda listed: listed.order, default=None)
    if highest is None or generation > highest.generation:
        return Rank(generation)
    if generation and generation < highest.generation:
        return Rank(generation, outranked_by=highest.path.name)
    return Rank(highest.generation, highest)
