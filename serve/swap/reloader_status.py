"""The reloader's verdict on the watched place after a look."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Union

from serve.source.observation import Ignore, Observation, Wait
from serve.swap.seen_checkpoints import SeenCheckpoints, describe

if TYPE_CHECKING:
    from serve.source.local import LocalSource
    from serve.swap.unserved import Note

Decided = tuple[Observation, Union[Ignore, Wait]]


@dataclass(frozen=True)
class ReloaderStatus:
    """What a reloader found when it looked last.

    Args:
        verdict: what came of the newest checkpoint, in words.
        unserved_ns: when the newest marker was written, while its checkpoint is not served; `None` when it is, or
            under a pin.
        is_refused: whether what is at the watched place was refused, or cannot be looked at.
    """

    verdict: str
    unserved_ns: int | None = None
    is_refused: bool = False


class Outcome(NamedTuple):
    """What a look that was asked for has led to."""

    is_live: bool
    is_refused: bool
    reason: str


def conclude(
    source: LocalSource, seen_checkpoints: SeenCheckpoints, decided: Sequence[Decided], notes: Sequence[Note]
) -> ReloaderStatus:
    """Sum up a look: what is at the watched place, and since when something is not served.

    Args:
        decided: what was seen, the highest rank first, and what came of each.
    """
    unserved_ns = [note.marker_mtime_ns for note in notes if note.marker_mtime_ns]
    first = decided[0][1] if decided else None
    if decided and not (isinstance(first, Ignore) and first.is_final):
        unserved_ns.append(since_ns(seen_checkpoints, decided[0][0]))
    said = [f"{seen.path.name}: {action.reason}" for seen, action in decided[:1]]
    said += [f"{note.name}: {note.reason}" for note in notes if not said or note.name != decided[0][0].path.name]
    nothing = f"no checkpoint with a marker at {source.path}"
    if seen_checkpoints.answering is not None:
        nothing += f"; {describe(seen_checkpoints.answering)} is being served on"
    is_refused = isinstance(first, Ignore) and not first.is_final and not first.is_waiting
    return ReloaderStatus("; ".join(said) or nothing, max(unserved_ns, default=None), is_refused)


def since_ns(seen_checkpoints: SeenCheckpoints, seen: Observation) -> int:
    """Return when a marker was written, on the wall clock; if that is in the future, when it was first seen."""
    ago_s = time.monotonic() - seen_checkpoints.first_seen_s(seen)
    return min(seen.marker.mtime_ns, time.time_ns() - int(ago_s * 1e9))
