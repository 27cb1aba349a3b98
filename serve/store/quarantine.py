"""Checkpoints that were refused, kept for all workers of a host and over restarts.

One file beside the store. A rejection names the bytes by their sha256 where they are known, and the observation by its
fingerprint, so that no worker copies and tries again what cannot serve. What may pass, such as a full disk, is tried
again less and less often. A rejection holds for one judge: another model class or other settings judge anew."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable

from serve.durable_files import Records
from serve.errors import CheckpointError, DeadlineError, ModelError, ServeError, TrialError, plain
from serve.store.ledger import ROLLBACK, Entry

_GRACE_S = 2.0  # another worker may have seen what this one has not listed yet; publishing takes a moment
# These faults may lie in what the marker states; the same bytes under another marker are judged anew.
_OF_MARKER = frozenset(("format", "golden", "interface", "marker", "signature"))


class Quarantine:
    """The file of rejections. `read_judge` names what judges here, as another's rejections do not count; `start` names
    the start of the server, which asks to look again at all that the bytes do not prove."""

    def __init__(self, root: Path, read_judge: Callable[[], str] = str, start: str = "") -> None:
        self._records: Records[Record] = Records(root / "quarantine.json", Record, lambda record: record.subject)
        self._read_judge, self._start = read_judge, start

    def records(self) -> list[Record]:
        """Return all rejections, the oldest first; none where the file cannot be read."""
        return list(self._records.read().values())

    def find_sha256(self, sha256: str, marker: str) -> Record | None:
        """Find the rejection that holds for these bytes."""
        record = self._records.read().get(sha256)
        if record is None or not record.holds(self._read_judge(), time.time(), self._start):
            return None
        return None if record.code in _OF_MARKER and record.marker != marker else record

    def find(self, fingerprint: str) -> Record | None:
        """Find the rejection that holds for an observation or an order."""
        now_s = time.time()
        for record in self._records.read().values():
            if fingerprint in record.fingerprints and record.holds(self._read_judge(), now_s, self._start):
                return record
        return None

    def add(self, rejection: Rejection) -> bool:
        """Remember a rejection, at least in this process, and return whether it is news to this host."""
        is_news = False

        def edit(records: Mapping[str, Record]) -> Mapping[str, Record]:
            nonlocal is_news
            records, is_news = add_rejection(records, rejection, self._read_judge(), time.time(), self._start)
            return records

        self._records.change(edit)
        return is_news

    def recognize(self, record: Record, fingerprint: str) -> None:
        """Remember that an observation leads to bytes that were refused."""

        def edit(records: Mapping[str, Record]) -> Mapping[str, Record]:
            known = records.get(record.subject, record)
            known = replace(known, fingerprints=add_fingerprint(known.fingerprints, fingerprint))
            return {**records, record.subject: known}

        self._records.change(edit)

    def forget(self, sha256: str) -> None:
        """Drop the rejection of bytes that were committed after all."""
        self._drop(frozenset((sha256,)))

    def retain(self, names: Collection[str]) -> bool:
        """Drop what left the watched place, and return whether there was any; if it comes back, it is judged anew."""
        before_s = time.time() - _GRACE_S
        records = self._records.read().values()
        left = (record for record in records if record.name not in names and record.tried_s < before_s)
        # What an operator's order led to, and nothing at the watched place, stays.
        gone = frozenset(one.subject for one in left if not all(by.startswith(ROLLBACK) for by in one.fingerprints))
        self._drop(gone)
        return bool(gone)

    def release(self, wanted: str | None) -> list[Record]:
        """Drop rejections by name, version or beginning of the sha256, or all: they are judged anew."""
        found = [record for record in self.records() if wanted is None or record.is_of(wanted)]
        self._drop(frozenset(record.subject for record in found))
        return found

    def _drop(self, subjects: frozenset[str]) -> None:
        if subjects.isdisjoint(self._records.read()):
            return
        self._records.change(lambda records: {key: record for key, record in records.items() if key not in subjects})


# Loading a large model again each minute would cost requests more than it may bring.
_FIRST_RETRY_S, _LONGEST_RETRY_S, _LONGEST_COSTLY_RETRY_S = 1.0, 60.0, 600.0
_DISRUPTIVE_RETRY_S = (600.0, 86400.0)  # the first and the longest pause where requests are answered 503 meanwhile
_MOST_RECORDS = 500
_SHORTEST_DIGEST = 8
_MOST_FINGERPRINTS = 100
# What the bytes alone prove, whatever code is to use them; of the rest another start of the server is a new judge.
_OF_BYTES = frozenset(("content", "damaged", "finite", "format", "hash", "marker", "pickle", "signature", "size"))


@dataclass(frozen=True)
class Rejection:
    """Why a checkpoint is not served."""

    name: str
    code: str
    reason: str
    fingerprint: str
    sha256: str = ""  # of its bytes, or nothing where they are not known
    version: str = ""
    is_lasting: bool = True  # whether trying the same again cannot help
    marker: str = ""  # its text, by which a rejection that was logged is recognized
    is_costly: bool = False  # whether trying it again takes loading a model
    is_disruptive: bool = False  # whether trying it again takes the live model away meanwhile


@dataclass(frozen=True)
class Record:
    """A rejection as the file has it."""

    subject: str  # the sha256, or the name where the bytes are not known
    name: str
    code: str
    reason: str
    judge: str
    since: str
    attempts: int = 0
    retry_at_s: float | None = None  # from when it may be tried again, on the wall clock; `None` for never
    version: str = ""
    fingerprints: tuple[str, ...] = ()  # of the observations and orders that led to it
    marker: str = ""
    tried_s: float = 0.0  # when it was last tried, on the wall clock
    start: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprints", tuple(self.fingerprints))  # a list, where it was read

    def is_of(self, wanted: str) -> bool:
        """Whether it is of a checkpoint. `wanted`: its name, its version, or at least eight digits of its sha256."""
        is_digest = len(wanted) >= _SHORTEST_DIGEST and self.subject.startswith(wanted)
        return wanted in (self.name, self.version) or is_digest

    def holds(self, judge: str, now_s: float, start: str = "") -> bool:
        """Whether the rejection still holds."""
        is_proven = self.retry_at_s is None and self.code in _OF_BYTES
        if self.judge != judge or not (is_proven or self.start == start):
            return False
        return self.retry_at_s is None or self.tried_s <= now_s < self.retry_at_s  # not prolonged by a clock set back


def explain(error: BaseException) -> str:
    """Write an error on one line, with what to do about it."""
    if not isinstance(error, ServeError):
        return plain(f"{type(error).__name__}: {error}")
    return plain(error.message + (f" (hint: {error.hint})" if error.hint else ""))


def code_of(error: BaseException) -> str:
    """Name the kind of fault by a fixed word."""
    if isinstance(error, CheckpointError):
        return error.code
    if isinstance(error, ModelError):
        return "model"
    return "deadline" if isinstance(error, DeadlineError) else type(error).__name__


def reject_entry(error: BaseException, entry: Entry) -> Rejection:
    """Refuse bytes that are known."""
    return Rejection(
        name=entry.name,
        code=code_of(error),
        reason=explain(error),
        fingerprint=entry.fingerprint,
        sha256=entry.sha256,
        version=entry.version,
        # Only what the bytes prove lasts. A full disk, no memory, a file server that is gone, a busy machine, whatever
        # the model's own code needs: it may pass.
        is_lasting=isinstance(error, CheckpointError) and not isinstance(error, TrialError),
        is_costly=isinstance(error, (TrialError, ModelError)),
        is_disruptive=isinstance(error, ServeError) and error.is_disruptive,
        marker=entry.marker,
    )


def add_rejection(
    records: Mapping[str, Record], rejection: Rejection, judge: str, now_s: float, start: str = ""
) -> tuple[Mapping[str, Record], bool]:
    """Add a rejection to the records by subject, and tell whether it is news: each state of half a file is not."""
    subject = rejection.sha256 or rejection.name
    old = records.get(subject)
    said = rejection.code, rejection.name, rejection.marker, judge, start
    is_same = old is not None and (old.code, old.name, old.marker, old.judge, old.start) == said
    if old is not None and not rejection.is_lasting and old.retry_at_s is None and old.holds(judge, now_s, start):
        return records, False  # what the bytes prove is not taken back, because a worker's copy has gone meanwhile
    attempts = old.attempts if old is not None and (old.judge, old.start) == (judge, start) else 0
    first_s, longest_s = _FIRST_RETRY_S, _LONGEST_COSTLY_RETRY_S if rejection.is_costly else _LONGEST_RETRY_S
    if rejection.is_disruptive:
        first_s, longest_s = _DISRUPTIVE_RETRY_S
    pause_s = min(first_s * 2.0 ** min(attempts, 10), longest_s)  # bounded, so that the power stays a small number
    since = datetime.fromtimestamp(now_s, timezone.utc).isoformat(timespec="milliseconds")
    record = Record(
        subject=subject, name=rejection.name, code=rejection.code, reason=rejection.reason, judge=judge,
        since=old.since if old is not None else since, attempts=attempts + 1,
        retry_at_s=None if rejection.is_lasting else now_s + pause_s, version=rejection.version,
        fingerprints=add_fingerprint(old.fingerprints if old is not None else (), rejection.fingerprint),
        marker=rejection.marker, tried_s=now_s, start=start,
    )  # fmt: skip
    others = [other for other in records.values() if other.subject != subject]
    kept = [*others, record][-_MOST_RECORDS:]
    return {one.subject: one for one in kept}, not is_same


def add_fingerprint(fingerprints: tuple[str, ...], new: str) -> tuple[str, ...]:
    """Add the fingerprint of an observation to those that led to the same rejection."""
    return (*(one for one in fingerprints if one != new), new)[-_MOST_FINGERPRINTS:]
