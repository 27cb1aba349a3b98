"""Checkpoints that were refused, kept for all workers of a host and over restarts.

One file beside the store. A refusal names the bytes by their sha256 where they are known, and the observation by its
fingerprint, so that nobody copies and tries again what cannot serve. What may pass, as a full disk does, is tried again
less and less often. A refusal holds for one judge: another model class or other settings judge anew.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable

from serve import durable_files
from serve.store import host_lock

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
_MOST_RECORDS = 500
# These faults may lie in what the marker states; the same bytes under another marker are judged anew.
_OF_MARKER = frozenset(("format", "golden", "interface", "marker", "signature"))
_MOST_FINGERPRINTS = 20


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
    """

    name: str
    code: str
    reason: str
    fingerprint: str
    sha256: str = ""
    version: str = ""
    is_lasting: bool = True
    marker: str = ""


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

    def holds(self, judge: str, now_s: float) -> bool:
        """Whether the refusal still stands.

        Args:
            judge: who asks.
            now_s: the time on the wall clock.
        """
        if self.judge != judge:
            return False
        # A clock that was set back must not prolong a pause.
        return self.retry_at_s is None or 0 < self.retry_at_s - now_s <= _LONGEST_RETRY_S


Records = Mapping[str, Record]


def add_refusal(records: Records, refusal: Refusal, judge: str, now_s: float) -> tuple[Records, bool]:
    """Add a refusal to what is known.

    Args:
        records: by subject, the oldest first.
        refusal: the new one.
        judge: who refused.
        now_s: the time on the wall clock.

    Returns:
        All records, and whether the refusal is news: a half-written checkpoint is refused in every state that it
        passes through, but its reader needs to be told once.
    """
    subject = refusal.sha256 or refusal.name
    old = records.get(subject)
    is_same = old is not None and (old.code, old.name, old.marker, old.judge) == (
        refusal.code,
        refusal.name,
        refusal.marker,
        judge,
    )
    attempts = old.attempts if old is not None and old.judge == judge else 0
    # Bounded, so that the power stays a small number.
    pause_s = min(_FIRST_RETRY_S * 2 ** min(attempts, 10), _LONGEST_RETRY_S)
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
    )
    others = [other for other in records.values() if other.subject != subject]
    kept = [*others, record][-_MOST_RECORDS:]
    return {one.subject: one for one in kept}, not is_same


class Quarantine:
    """The file of refusals.

    Args:
        root: the store's directory.
        read_judge: names what judges here, so that a refusal by another one does not count; asked when there is
            something to judge.
    """

    def __init__(self, root: Path, read_judge: Callable[[], str] = str) -> None:
        self._path = root / "quarantine.json"
        self._lock_path = root / "quarantine.lock"
        self._read_judge = read_judge
        self._records: Records = {}
        self._state: tuple[int, int, int] | None = None

    def records(self) -> list[Record]:
        """Return all refusals, the oldest first; none where the file cannot be read."""
        self._refresh()
        return list(self._records.values())

    def find_sha256(self, sha256: str, marker: str) -> Record | None:
        """Find the refusal that stands for these bytes.

        Args:
            sha256: of the bytes.
            marker: the text of the marker that they have now.
        """
        self._refresh()
        record = self._records.get(sha256)
        if record is None or not record.holds(self._read_judge(), time.time()):
            return None
        return None if record.code in _OF_MARKER and record.marker != marker else record

    def find(self, fingerprint: str) -> Record | None:
        """Find the refusal that stands for an observation or an order.

        Args:
            fingerprint: of it.
        """
        self._refresh()
        now_s = time.time()
        for record in self._records.values():
            if fingerprint in record.fingerprints and record.holds(self._read_judge(), now_s):
                return record
        return None

    def add(self, refusal: Refusal) -> bool:
        """Remember a refusal, in the file and, should the disk be full, at least in this process.

        Args:
            refusal: what was refused, and why.

        Returns:
            Whether it is news to this host.
        """
        is_news: bool | None = None
        with contextlib.suppress(OSError), host_lock.hold(self._lock_path):
            self._refresh()
            self._records, is_news = add_refusal(self._records, refusal, self._read_judge(), time.time())
            self._write()
        if is_news is None:  # not even the lock could be had
            self._records, is_news = add_refusal(self._records, refusal, self._read_judge(), time.time())
        return is_news

    def recognize(self, record: Record, fingerprint: str) -> None:
        """Remember that an observation leads to bytes that were refused.

        Args:
            record: the refusal of the bytes.
            fingerprint: of the observation.
        """
        with contextlib.suppress(OSError), host_lock.hold(self._lock_path):
            self._refresh()
            known = self._records.get(record.subject, record)
            known = replace(known, fingerprints=_add(known.fingerprints, fingerprint))
            self._records = {**self._records, record.subject: known}
            self._write()

    def forget(self, sha256: str) -> None:
        """Drop the refusal of bytes that were committed after all.

        Args:
            sha256: of the bytes.
        """
        self._refresh()
        if sha256 not in self._records:
            return
        with contextlib.suppress(OSError), host_lock.hold(self._lock_path):
            self._refresh()
            self._records = {key: record for key, record in self._records.items() if key != sha256}
            self._write()

    def _refresh(self) -> None:
        try:
            seen = self._path.stat()
            state = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
            if state != self._state:
                stated = json.loads(self._path.read_bytes())
                self._records = {record.subject: record for record in map(_parse, stated)}
                self._state = state
        except (OSError, ValueError, TypeError, AttributeError):
            return  # a damaged quarantine must not stop a reload; it is written anew with the next refusal

    def _write(self) -> None:
        content = json.dumps([asdict(record) for record in self._records.values()], indent=1)
        durable_files.replace_file(self._path, content.encode() + b"\n")
        seen = self._path.stat()
        self._state = (seen.st_ino, seen.st_size, seen.st_mtime_ns)


def _add(fingerprints: tuple[str, ...], new: str) -> tuple[str, ...]:
    return (*(one for one in fingerprints if one != new), new)[-_MOST_FINGERPRINTS:]


def _parse(stated: Mapping[str, object]) -> Record:
    known = {field.name: stated[field.name] for field in fields(Record) if field.name in stated}
    record = Record(**known)  # type: ignore[arg-type]
    return replace(record, fingerprints=tuple(record.fingerprints))


def _as_text(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, timezone.utc).isoformat(timespec="milliseconds")
