"""Changes of state for all who subscribe: the structured log, the journal of a store, and others.

The log has one JSON line for each event, on standard error beside gunicorn's own, each by a single write, so that lines
of two workers never mix. Every worker appends to the journal, `<store>/events.jsonl`, which becomes `events.1.jsonl`
when it has grown large; a line that is lost there is missing on the status page and nowhere else."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable

_STDERR = 2


class EventLog:
    """Tells subscribers, which must neither wait nor raise, of events; every event repeats the `facts`."""

    def __init__(self, facts: Mapping[str, object], *subscribers: Subscriber) -> None:
        self._facts, self._subscribers = facts, subscribers

    def emit(self, event: str, **facts: object) -> None:
        """Tell of an event; the names of the facts carry their units."""
        happened = Event(event, {**self._facts, **facts})
        for subscriber in self._subscribers:
            subscriber(happened)


def write_line(event: Event) -> None:
    """Write an event to standard error; a subscriber."""
    os.write(_STDERR, event.line)


def now() -> str:
    """Return the moment, as ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Event:
    """One change of state."""

    name: str
    facts: Mapping[str, object]  # what is known about it; names carry their units
    time: str = field(default_factory=now)  # when it happened, as ISO 8601 in UTC
    worker: int = field(default_factory=os.getpid)

    @functools.cached_property
    def line(self) -> bytes:
        """One line of JSON, the keys that every event has first."""
        stated = {"time": self.time, "event": self.name, "worker": self.worker, **self.facts}
        return json.dumps(stated, default=str).encode() + b"\n"


Subscriber = Callable[[Event], None]


SWAPPED, REPLACED = "swapped", "returned"
# What became of a generation, by the event that tells of it.
OUTCOMES = {"held": "held", REPLACED: "taken back", "promoted": "promoted", "agreed": "agreed", "ended": "ended"}
_KEPT = {SWAPPED, "restored", "refused", "retired", "not_restored", "store_damaged", "fault", "stopped"}
_KEPT |= {*OUTCOMES, "policy_broken"}
_LARGEST_BYTES = 1024 * 1024


class Journal:
    """The events of one store."""

    def __init__(self, root: Path) -> None:
        self._path, self._older = root / "events.jsonl", root / "events.1.jsonl"

    def put(self, event: Event) -> None:
        """Keep an event, where it is one that people look for; a subscriber of `EventLog`."""
        if event.name not in _KEPT:
            return
        with contextlib.suppress(OSError):  # a full disk must not stop a swap, and the line is in the log
            self._append(event.line)

    def read(self, most: int, names: Collection[str] = ()) -> list[dict[str, Any]]:
        """Return the last events, the newest first; with `names`, those of these names alone."""
        lines: list[bytes] = []
        for path in (self._older, self._path):
            with contextlib.suppress(OSError):
                lines += path.read_bytes().splitlines()
        if names:
            wanted = [f'"event": "{name}"'.encode() for name in names]
            lines = [line for line in lines if any(name in line for name in wanted)]
        return [event for event in map(_parse, reversed(lines[-most:])) if event is not None]

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags, 0o666)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, flags, 0o666)
        try:
            os.write(descriptor, line)
            is_full = os.fstat(descriptor).st_size > _LARGEST_BYTES
        finally:
            os.close(descriptor)
        if is_full:
            self._path.replace(self._older)  # two workers may do this at once; then the older lines go a little sooner


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None  # what a worker that was killed has left
    return event if isinstance(event, dict) else None
