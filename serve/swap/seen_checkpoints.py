"""One worker's memory of the watched place between two looks, and the host's notes of what is not served.

The memory is kept by path, so that it stays as small as the place is. Notes are of faultless checkpoints: one whose
marker is older than that of what was live, one that waits for its file, and what is served though it left the place.
Each is logged once on a host, and shown by `status`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, NamedTuple

from serve import durable_files
from serve.checkpoint.manifest import stated_sha256
from serve.durable_files import Records
from serve.events.event_log import EventLog
from serve.source.local import Listed, LocalSource
from serve.source.observation import OUTRANKED, Identity, Known, Observation
from serve.store.ledger import CHECKPOINT, Entry

Order = tuple[int, int, str]


class _Record(NamedTuple):
    fingerprint: str
    first_seen_s: float
    generation: int  # live when this state replaced another one; 0 where it was the first that was seen


class SeenCheckpoints:
    """When what was seen first, what is live, what was live already, and which markers came since."""

    def __init__(self) -> None:
        self._records: dict[Path, _Record] = {}
        self.answering: Entry | None = None  # what is live in this worker, and the highest rank ever
        self.order: Order | None = None
        self._served: set[str] = set()
        self._withdrawn: str | None = None
        self._listed: Sequence[Listed] | None = None
        self._listed_under = 0
        self.late: dict[Path, Listed] = {}  # the markers that came after what is live, though their rank is lower
        # The file of each checkpoint that was live, and the sha256 of its content, by its name.
        self._files: dict[str, tuple[Identity | None, str]] = {}

    @property
    def generation(self) -> int:
        """The number of the generation that is live, or 0."""
        return self.answering.generation if self.answering is not None else 0

    def learn(self, committed: Sequence[Entry]) -> None:
        """Learn of the generations up to the live one."""
        known = self.generation
        if not committed or committed[-1].generation == known:
            return
        last = committed[-1]
        for entry in committed:
            if entry.generation > known:
                self.order = entry.order if self.order is None else max(self.order, entry.order)
        self.answering, self.late = last, {}
        self._served = {entry.fingerprint for entry in committed if entry.has_same_content(last)}
        replaced = next((entry for entry in reversed(committed) if entry.cause == CHECKPOINT), None)
        is_rollback = last.cause != CHECKPOINT and replaced is not None and not replaced.has_same_content(last)
        self._withdrawn = replaced.fingerprint if is_rollback and replaced is not None else None

    def serve(self, fingerprint: str, order: Order) -> None:
        """Remember that an observation has the content of what is live."""
        self._served.add(fingerprint)
        self.order = order if self.order is None else max(self.order, order)

    def compare(self, listed: Sequence[Listed], read_last: Callable[[], Mapping[str, str] | None]) -> None:
        """Find markers that came after what is live, though they rank lower; `read_last` knows those before a start."""
        if listed is self._listed:
            self._listed_under = self.generation
            return
        there = {one.path: one.marker for one in listed}
        self.late = {path: one for path, one in self.late.items() if there.get(path) == one.marker}
        if self.order is not None:
            for one in self._find_new(listed, read_last):
                if one.order < self.order:
                    self.late[one.path] = one
        self._listed, self._listed_under = listed, self.generation

    def _find_new(self, listed: Sequence[Listed], read_last: Callable[[], Mapping[str, str] | None]) -> list[Listed]:
        if self._listed is None:
            last = read_last()
            return [] if last is None else [one for one in listed if last.get(one.path.name) != repr(one.marker)]
        before = {one.path: one.marker for one in self._listed}
        # What came together with what is live was there before it, as far as anybody knows.
        is_known = self._listed_under == self.generation or any(one.order == self.order for one in self._listed)
        return [one for one in listed if before.get(one.path) != one.marker] if is_known else []

    def first_seen_s(self, seen: Observation) -> float:
        """When an observation that was recalled was first made, on the monotonic clock."""
        return self._records[seen.path].first_seen_s

    def recall(self, seen: Observation, is_ranked: bool, now_s: float, refusal: str | None) -> Known:
        """Return what is known of an observation, and note it; in a directory older markers give way."""
        record = self._records.get(seen.path)
        if record is None or record.fingerprint != seen.fingerprint:
            generation = self.generation if record is not None else 0
            record = self._records[seen.path] = _Record(seen.fingerprint, now_s, generation)
        is_changed = record.generation == self.generation != 0
        if seen.fingerprint in self._served and self.answering is not None:
            self._files[seen.path.name] = seen.checkpoint, self.answering.sha256
        return Known(
            served=seen.fingerprint if seen.fingerprint in self._served else None,
            served_order=self.order if is_ranked else None, first_seen_s=record.first_seen_s, refusal=refusal,
            answering=describe(self.answering), is_withdrawn=seen.fingerprint == self._withdrawn and not is_changed,
        )  # fmt: skip

    def is_live(self, seen: Observation) -> bool:
        """Whether the content of an observation is known to be the live one, whatever its rank is."""
        if self.answering is None:
            return False
        known = seen.checkpoint, self.answering.sha256
        return stated_sha256(seen.text) == self.answering.sha256 or self._files.get(seen.path.name) == known


def describe(answering: Entry | None) -> str:
    """Name what is live."""
    return "nothing" if answering is None else f"version {answering.version} ({answering.name})"


OUTRANKED_CODE, WAITING, REMOVED = "outranked", "waiting", "removed"
_GRACE_S = 2.0  # a trainer that overwrites its checkpoint passes through such states, which need no line in the log
_HINTS = {
    OUTRANKED_CODE: "touch the marker, publish it again, give --generation, or go back with python -m serve rollback",
    WAITING: "write the marker when the checkpoint is whole, or touch it again",
    REMOVED: "publish what is to be served, or touch its marker",
}


@dataclass(frozen=True)
class Note:
    """One checkpoint that is not served, or that is served and has gone."""

    name: str
    code: str  # `outranked`, `waiting` or `removed`
    reason: str
    marker: str  # the state of its marker, which another publish changes
    marker_mtime_ns: int  # when that was written; 0 where there is nothing to be served
    generation: int
    since: str

    @property
    def hint(self) -> str:
        """What to do about it."""
        return _HINTS[self.code]


@dataclass(frozen=True)
class Look:
    """What one look at a watched place has found; `waiting`: what publishers have yet to do something for, and what."""

    source: LocalSource
    listed: Sequence[Listed]
    seen_checkpoints: SeenCheckpoints
    is_served: bool
    waiting: Sequence[tuple[Observation, str]]
    now_s: float


class Unserved:
    """The notes of one host, seen by one worker or by a command."""

    def __init__(self, root: Path) -> None:
        self._records: Records[Note] = Records(root / "unserved.json", Note, lambda note: note.name)
        self._first_seen_s: dict[tuple[str, str, str], float] = {}
        self._settled: tuple[Sequence[Listed], int, bool] | None = None
        self._listing = root / "listing.json"
        self._kept: Sequence[Listed] = ()

    def notes(self) -> list[Note]:
        """Return what is noted, the oldest first."""
        return list(self._records.read().values())

    def last_listing(self, place: Path) -> Mapping[str, str] | None:
        """Return the state of each marker, by name, that a server of this store found there when it looked last."""
        try:
            stated = json.loads(self._listing.read_bytes())
            return dict(stated["markers"]) if stated["place"] == str(place) else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def review(self, look: Look, log: EventLog) -> list[Note]:
        """Update the notes after a look, log the new ones, drop those that no longer hold, and return all."""
        state = look.listed, look.seen_checkpoints.generation, look.is_served
        if self._settled is not None and self._settled[0] is look.listed and self._settled[1:] == state[1:]:
            return self.notes()
        held = [_note(seen.path.name, WAITING, reason, seen.marker, state[1]) for seen, reason in look.waiting]
        held += _find_removed(look)
        self._first_seen_s = {key: self._first_seen_s.get(key, look.now_s) for key in map(_key_of, held)}
        ripe = [note for note in held if look.now_s - self._first_seen_s[_key_of(note)] >= _GRACE_S]
        self._drop(held, look)
        for note in [*_find_outranked(look), *ripe]:
            if self._add(note):
                path = str(look.source.directory / note.name)
                log.emit("unserved", checkpoint=path, code=note.code, reason=note.reason, hint=note.hint)
        if look.listed is not self._kept:
            self._kept = look.listed
            markers = {one.path.name: repr(one.marker) for one in look.listed}
            text = json.dumps({"place": str(look.source.path), "markers": markers})
            with contextlib.suppress(OSError):  # then the next start does not know what came while nobody looked
                durable_files.replace_file(self._listing, text.encode(), is_lasting=False)
        # Thousands of markers that stay as they are need not be gone through again.
        self._settled = state if len(ripe) == len(held) and not look.waiting else None
        return self.notes()

    def _drop(self, held: Sequence[Note], look: Look) -> None:
        """Drop the notes of what was served, changed or went; what another worker alone has seen stays."""
        known = self._records.read()
        if not known:
            return
        there = {one.path.name: repr(one.marker) for one in look.listed if one.path.name in known}
        wanted = {_key_of(note) for note in held}
        gone = {
            name
            for name, note in known.items()
            if note.generation != look.seen_checkpoints.generation
            or there.get(name, "") != note.marker
            or (note.code != OUTRANKED_CODE and _key_of(note) not in wanted)
        }
        if gone:
            self._records.change(lambda records: {name: note for name, note in records.items() if name not in gone})

    def _add(self, note: Note) -> bool:
        def is_known(records: Mapping[str, Note]) -> bool:
            old = records.get(note.name)
            return old is not None and (old.code, old.marker) == (note.code, note.marker)

        if is_known(self._records.read()):
            return False
        is_news = False

        def edit(records: Mapping[str, Note]) -> Mapping[str, Note]:
            nonlocal is_news
            is_news = not is_known(records)
            return {**records, note.name: note} if is_news else records

        self._records.change(edit)
        return is_news


def _find_outranked(look: Look) -> list[Note]:
    """What came after what is live, and has a lower rank."""
    answering, found = look.seen_checkpoints.answering, []
    if answering is None or not look.source.is_directory:
        return []
    reason = "passed over: " + OUTRANKED.format(describe(answering))
    for one in list(look.seen_checkpoints.late.values()):
        with contextlib.suppress(FileNotFoundError):  # gone since the listing
            if not look.seen_checkpoints.is_live(look.source.look_at(one)):
                found.append(_note(one.path.name, OUTRANKED_CODE, reason, one.marker, look.seen_checkpoints.generation))
    return found


def _find_removed(look: Look) -> list[Note]:
    """What is live and has left this place, or what is here instead."""
    answering, order = look.seen_checkpoints.answering, look.seen_checkpoints.order
    if answering is None or answering.cause != CHECKPOINT or look.is_served:
        return []
    if any(one.path.name == answering.name for one in look.listed):
        return []
    served = describe(answering)
    if not look.listed:
        return [
            _note(answering.name, REMOVED, f"it was removed; {served} is being served on", None, answering.generation)
        ]
    first = look.listed[0]
    if order is None or first.order > order:
        return []  # it is being loaded, waited for or refused
    reason = f"passed over: {served} was removed, and is being served on, as this marker is older"
    return [_note(first.path.name, REMOVED, reason, first.marker, answering.generation)]


def _note(name: str, code: str, reason: str, marker: Identity | None, generation: int) -> Note:
    since = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    mtime_ns = min(marker.mtime_ns, time.time_ns()) if marker is not None else 0
    return Note(name, code, reason, repr(marker) if marker is not None else "", mtime_ns, generation, since)


def _key_of(note: Note) -> tuple[str, str, str]:
    return note.name, note.code, note.marker
