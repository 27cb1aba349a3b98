"""What one worker remembers between two looks at the watched place.

Kept by path, so that it stays as small as the place is. Does no I/O and reads no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from serve.checkpoint import Known, Observation, Refuse

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0


@dataclass(frozen=True)
class _Record:
    fingerprint: str
    first_seen_s: float
    refusal: str | None = None
    retry_at_s: float | None = None
    failures: int = 0
    said: tuple[str, bytes] | None = None


class Memory:
    """What is served, what was refused, and what was said about it."""

    def __init__(self) -> None:
        self._records: dict[Path, _Record] = {}
        self._served: str | None = None
        self._served_order: tuple[int, str] | None = None

    def recall(self, seen: Observation, is_ranked: bool, now_s: float) -> Known:
        """Return what is known of an observation, and remember that it was made.

        Args:
            seen: the observation.
            is_ranked: whether an older marker gives way to a newer one, as in a directory of checkpoints.
            now_s: the time on the monotonic clock.
        """
        record = self._records.get(seen.path)
        if record is None or record.fingerprint != seen.fingerprint:
            record = _Record(seen.fingerprint, now_s, said=record.said if record else None)
            self._records[seen.path] = record
        return Known(
            served=self._served,
            served_order=self._served_order if is_ranked else None,
            first_seen_s=record.first_seen_s,
            refusal=record.refusal,
            retry_at_s=record.retry_at_s,
        )

    def serve(self, fingerprint: str, order: tuple[int, str]) -> None:
        """Remember what is served.

        Args:
            fingerprint: of its observation.
            order: its rank.
        """
        self._served, self._served_order = fingerprint, order

    def refuse(self, refusal: Refuse, is_lasting: bool, now_s: float) -> bool:
        """Remember that an observation was refused.

        Args:
            refusal: of an observation that was recalled before.
            is_lasting: whether trying again cannot help; otherwise it is tried again, less and less often.
            now_s: the time on the monotonic clock.

        Returns:
            Whether it is news: a half-written checkpoint is refused in every state that it passes through, but its
            reader needs to be told once.
        """
        seen = refusal.observation
        record = self._records[seen.path]
        delay_s = min(_FIRST_RETRY_S * 2**record.failures, _LONGEST_RETRY_S)
        said = (refusal.code, seen.text)
        self._records[seen.path] = replace(
            record,
            refusal=refusal.reason,
            retry_at_s=None if is_lasting else now_s + delay_s,
            # Bounded, so that the power above stays a small number.
            failures=min(record.failures + 1, 10),
            said=said,
        )
        return record.said != said
