"""The rank that a marker needs among those beside it, so that a server of the directory takes it for the newest.

A server ranks by the stated generation, then by the time of the marker. A clock that runs behind, or markers that came
with times of their own, must not make a new checkpoint an old one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serve.source.local import LocalSource


@dataclass(frozen=True)
class Rank:
    """The rank of a marker that is to be written.

    Args:
        generation: that it states; 0 for none.
        after_ns: the time that its time must be later than, in nanoseconds; 0 where any will do.
        outranked_by: the checkpoint that stays above it, because it states a higher generation; or `None`.
    """

    generation: int
    after_ns: int
    outranked_by: str | None


def find_rank(directory: Path, generation: int) -> Rank:
    """Find the rank that outranks the markers of a directory.

    Args:
        generation: that the publisher states; 0 for none, which takes over the highest one beside it.
    """
    highest = max(LocalSource(directory).list(), key=lambda listed: listed.order, default=None)
    if highest is None:
        return Rank(generation, 0, None)
    if generation and generation < highest.generation:
        return Rank(generation, 0, highest.path.name)
    if generation > highest.generation:
        return Rank(generation, 0, None)
    return Rank(highest.generation, highest.marker.mtime_ns, None)
