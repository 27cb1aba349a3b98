"""Checkpoints that were refused, kept for all workers of a host and over restarts.

One file beside the store. A refusal names the bytes by their sha256 where they are known, and the observation by its
fingerprint, so that nobody copies and tries again what cannot serve. What may pass, as a full disk does, is tried again
less and less often. A refusal holds for one judge: another model class or other settings judge anew.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path

from serve.swapping.ledger import ROLLBACK
from serve.swapping.records import Records

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
# Loading a large model again each minute would cost requests more than it may bring.
_LONGEST_COSTLY_RETRY_S = 600.0
_MOST_RECORDS = 500
_SHORTEST_DIGEST = 8
# Another worker may have seen and refused what this one has not listed yet, and publishing again takes a moment.
_GRACE_S = 2.0
# These faults may lie in what the marker states; the same bytes under another marker are judged anew.
_OF_MARKER = frozenset(("format", "golden", "interface", "marker", "signature"))
_MOST_FINGERPRINTS = 100
# What the bytes alone prove, whatever code is to use them; of the rest another start of the server is a new judge.
_OF_BYTES = frozenset(("content", "damaged", "finite", "format", "hash", "marker", "pickle", "signature", "size"))


@dataclass(frozen=True)
class Refusal:
    """Why a checkpoint is not served.

    Args:
        name: of the checkpoint's file.
        code: a fixed word for the kind of fault.
        reason: what is wrong with it.
        fingerprint: of the observation, or of the order, that led to it.
        sha256: of its bytes, or nothing where they are not known.
        version: that its marker names, where it does.
        is_lasting: whether trying the same again cannot help.
        marker: the marker's text, by which a refusal that was said is known again.
        is_costly: whether trying it again takes loading a model.
    """

    name: str
    code: str
    reason: str
    fingerprint: str
    sha256: str = ""
    version: str = ""
    is_lasting: bool = True
    marker: str = ""
    is_costly: bool = False


@dataclass(frozen=True)
class Record:
    """A refusal as it stands in the file.

    Args:
        subject: the sha256, or the name where the bytes are not known.
        name: of the checkpoint's file.
        code: a fixed word for the kind of fault.
        reason: what is wrong with it.
        judge: who refused it; see the module.
        since: when it was first refused, as ISO 8601.
        attempts: how often it was tried.
        retry_at_s: from when it may be tried again, on the wall clock; `None` for never.
        version: that its marker names.
        fingerprints: of the observations and orders that led to it.
        marker: the marker's text.
        tried_s: when it was last tried, on the wall clock.
        start: of the server that refused it.
    """

    subject: str
    name: str
    code: str
    reason: str
    judge: str
    since: str
    attempts: int = 0
    retry_at_s: float | None = None
    version: str = ""
    fingerprints: tuple[str, ...] = ()
    marker: str = ""
    tried_s: float = 0.0
    start: str = ""

    @property
    def is_ordered(self) -> bool:
        """Whether an operator's order led to it, and nothing that lies at the watched place."""
        return all(fingerprint.startswith(ROLLBACK) for fingerprint in self.fingerprints)

    def is_of(self, wanted: str) -> bool:
        """Whether it is of a checkpoint.

        Args:
            wanted: its name, its version, or at least eight digits of its sha256.
        """
        is_digest = len(wanted) >= _SHORTEST_DIGEST and self.subject.startswith(wanted)
        return wanted in (self.name, self.version) or is_digest

    def holds(self, judge: str, now_s: float, start: str = "") -> bool:
        """Whether the refusal still stands.

        Args:
            judge: who asks.
            now_s: the time on the wall clock.
            start: of the server that asks.
        """
        is_proven = self.retry_at_s is None and self.code in _OF_BYTES
        if self.judge != judge or not (is_proven or self.start == start):
            return False
        # A clock that was set back must not prolong a pause.
        return self.retry_at_s is None or self.tried_s <= now_s < self.retry_at_s


def add_refusal(
    records: Mapping[str, Record], refusal: Refusal, judge: str, now_s: float, start: str = ""
) -> tuple[Mapping[str, Record], bool]:
    """Add a refusal to what is known.

    Args:
        records: by subject, the oldest first.
        refusal: the new one.
        judge: who refused.
        now_s: the time on the wall clock.
        start: of the server that refused.

    Returns:
        All records, and whether the refusal is news: a half-written checkpoint is refused in every state that it
        passes through, but its reader needs to be told once.
    """
    subject = refusal.sha256 or refusal.name
    old = records.get(subject)
    said = refusal.code, refusal.name, refusal.marker, judge, start
    is_same = old is not None and (old.code, old.name, old.marker, old.judge, old.start) == said
    if old is not None and not refusal.is_lasting and old.retry_at_s is None and old.holds(judge, now_s, start):
        return records, False  # what the bytes prove is not taken back, because a worker's copy has gone meanwhile
    attempts = old.attempts if old is not None and (old.judge, old.start) == (judge, start) else 0
    # Bounded, so that the power stays a small number.
    longest_s = _LONGEST_COSTLY_RETRY_S if refusal.is_costly else _LONGEST_RETRY_S
    pause_s = min(_FIRST_RETRY_S * 2 ** min(attempts, 10), longest_s)
    record = Record(
        subject=subject,
        name=refusal.name,
        code=refusal.code,
        reason=refusal.reason,
        judge=judge,
        since=old.since if old is not None else _as_text(now_s),
        attempts=attempts + 1,
        retry_at_s=None if refusal.is_lasting else now_s + pause_s,
        version=refusal.version,
        fingerprints=_add(old.fingerprints if old is not None else (), refusal.fingerprint),
        marker=refusal.marker,
        tried_s=now_s,
        start=start,
    )
    others = [other for other in records.values() if other.subject != subject]
    kept = [*others, record][-_MOST_RECORDS:]
    return {one.subject: one for one in kept}, not is_same


class Quarantine:
    """The file of refusals.

    Args:
        root: the store's directory.
        judge: names what judges here, so that a refusal by another one does not count.
        start: names the start of the server, which is a request to look again at all that the bytes do not prove.
    """

    def __init__(self, root: Path, judge: str = "", start: str = "") -> None:
        self._records: Records[Record] = Records(root / "quarantine.json", _parse, lambda record: record.subject)
        self.judge, self._start = judge, start

    def records(self) -> list[Record]:
        """Return all refusals, the oldest first; none where the file cannot be read."""
        return list(self._records.read().values())

    def find_sha256(self, sha256: str, marker: str) -> Record | None:
        """Find the refusal that stands for these bytes.

        Args:
            sha256: of the bytes.
            marker: the text of the marker that they have now.
        """
        record = self._records.read().get(sha256)
        if record is None or not record.holds(self.judge, time.time(), self._start):
            return None
        return None if record.code in _OF_MARKER and record.marker != marker else record

    def find(self, fingerprint: str) -> Record | None:
        """Find the refusal that stands for an observation or an order.

        Args:
            fingerprint: of it.
        """
        now_s = time.time()
        for record in self._records.read().values():
            if fingerprint in record.fingerprints and record.holds(self.judge, now_s, self._start):
                return record
        return None

    def add(self, refusal: Refusal) -> bool:
        """Remember a refusal, in the file and, should the disk be full, at least in this process.

        Args:
            refusal: what was refused, and why.

        Returns:
            Whether it is news to this host.
        """
        is_news = False

        def edit(records: Mapping[str, Record]) -> Mapping[str, Record]:
            nonlocal is_news
            records, is_news = add_refusal(records, refusal, self.judge, time.time(), self._start)
            return records

        self._records.change(edit)
        return is_news

    def recognize(self, record: Record, fingerprint: str) -> None:
        """Remember that an observation leads to bytes that were refused.

        Args:
            record: the refusal of the bytes.
            fingerprint: of the observation.
        """

        def edit(records: Mapping[str, Record]) -> Mapping[str, Record]:
            known = records.get(record.subject, record)
            known = replace(known, fingerprints=_add(known.fingerprints, fingerprint))
            return {**records, record.subject: known}

        self._records.change(edit)

    def forget(self, sha256: str) -> None:
        """Drop the refusal of bytes that were committed after all.

        Args:
            sha256: of the bytes.
        """
        self._drop(frozenset((sha256,)))

    def retain(self, names: Collection[str]) -> None:
        """Drop what has left the watched place; should it come back, it is judged anew.

        Args:
            names: of the checkpoints whose markers are there.
        """
        before_s = time.time() - _GRACE_S
        self._drop(
            frozenset(
                record.subject
                for record in self._records.read().values()
                if record.name not in names and record.tried_s < before_s and not record.is_ordered
            )
        )

    def release(self, wanted: str | None) -> list[Record]:
        """Drop refusals, so that what they are of is judged anew.

        Args:
            wanted: the name, the version or the beginning of the sha256 of a checkpoint; `None` for all.

        Returns:
            Those that were dropped.
        """
        found = [record for record in self.records() if wanted is None or record.is_of(wanted)]
        self._drop(frozenset(record.subject for record in found))
        return found

    def _drop(self, subjects: frozenset[str]) -> None:
        if subjects.isdisjoint(self._records.read()):
            return
        self._records.change(lambda records: {key: record for key, record in records.items() if key not in subjects})


def _add(fingerprints: tuple[str, ...], new: str) -> tuple[str, ...]:
    return (*(one for one in fingerprints if one != new), new)[-_MOST_FINGERPRINTS:]


def _parse(stated: Mapping[str, object]) -> Record:
    known = {field.name: stated[field.name] for field in fields(Record) if field.name in stated}
    record = Record(**known)  # type: ignore[arg-type]
    return replace(record, fingerprints=tuple(record.fingerprints))


def _as_text(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, timezone.utc).isoformat(timespec="milliseconds")
