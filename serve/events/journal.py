"""The last events of one store, kept for people: what was swapped or refused, when, how long it took, and why.

Every worker appends its own log lines to `<store>/events.jsonl`, each by one write. When the file has grown large, it
becomes `events.1.jsonl`, in the place of the one before. The truth about generations is the ledger's; a line that is
lost here is missing on the status page and nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from serve.events.event import Event

_KEPT = frozenset(
    (
        "swapped",
        "restored",
        "refused",
        "retired",
        "not_restored",
        "store_damaged",
        "fault",
        "stopped",
        "held",
        "returned",
    )
)
_LARGEST_BYTES = 1024 * 1024


class Journal:
    """The events of one store."""

    def __init__(self, root: Path) -> None:
        self._path, self._older = root / "events.jsonl", root / "events.1.jsonl"

    def put(self, event: Event) -> None:
        """Keep an event, where it is one that people look for; a subscriber of `EventLog`."""
        if event.name not in _KEPT:
            return
        try:
            self._append(event.line)
        except OSError:
            return  # a full disk must not stop a swap, and the line is in the log

    def read(self, most: int, names: Collection[str] = ()) -> list[dict[str, Any]]:
        """Return the last events, the newest first; with `names`, those of these names alone."""
        lines = [line for path in (self._older, self._path) for line in _read_lines(path)]
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
            # Two workers may do this at once; then the older lines are gone a little sooner.
            self._path.replace(self._older)


def _read_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError:
        return []


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None  # what a worker that was killed has left
    return event if isinstance(event, dict) else None
