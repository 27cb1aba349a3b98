"""Checkpoints that were refused, kept for all workers of a host and over restarts.

One file beside the store. A rejection names the bytes by their sha256 where they are known, and the observation by its
fingerprint, so that no worker copies and tries again what cannot serve. What may pass, such as a full disk, is tried
again less and less often. A rejection holds for one judge: another model class or other settings judge anew.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Callable

from serve.store.records import Records
from serve.store.rejection import Record, Rejection, add_fingerprint, add_rejection, parse_record

# Another worker may have seen and refused what this one has not listed yet, and publishing again takes a moment.
_GRACE_S = 2.0
# These faults may lie in what the marker states; the same bytes under another marker are judged anew.
_OF_MARKER = frozenset(("format", "golden", "interface", "marker", "signature"))


class Quarantine:
    """The file of rejections.

    Args:
        read_judge: names what judges here, so that a rejection by another one does not count; asked when there is
            something to judge.
        start: names the start of the server, which is a request to look again at all that the bytes do not prove.
    """

    def __init__(self, root: Path, read_judge: Callable[[], str] = str, start: str = "") -> None:
        self._records: Records[Record] = Records(root / "quarantine.json", parse_record, lambda record: record.subject)
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
        """Remember a rejection, in the file and, should the disk be full, at least in this process.

        Returns:
            Whether it is news to this host.
        """
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
        """Drop what has left the watched place, and return whether anything has; if it comes back, it is judged anew.

        Args:
            names: of the checkpoints that have markers.
        """
        before_s = time.time() - _GRACE_S
        records = self._records.read().values()
        left = (record for record in records if record.name not in names and record.tried_s < before_s)
        gone = frozenset(record.subject for record in left if not record.is_ordered)
        self._drop(gone)
        return bool(gone)

    def release(self, wanted: str | None) -> list[Record]:
        """Drop rejections, so that what they are of is judged anew.

        Args:
            wanted: the name, the version or the beginning of the sha256 of a checkpoint; `None` for all.
        """
        found = [record for record in self.records() if wanted is None or record.is_of(wanted)]
        self._drop(frozenset(record.subject for record in found))
        return found

    def _drop(self, subjects: frozenset[str]) -> None:
        if subjects.isdisjoint(self._records.read()):
            return
        self._records.change(lambda records: {key: record for key, record in records.items() if key not in subjects})
