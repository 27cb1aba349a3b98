"""One structured JSON line for each change of state.

The lines go to standard error beside gunicorn's own, each by a single write, so that lines of two workers never mix.
Access logs and log files are out of scope: gunicorn writes the first, the init system keeps the second.
"""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timezone
from typing import Callable

Sink = Callable[[bytes], None]
_STDERR = 2


class EventLog:
    """Write events as JSON lines.

    Args:
        facts: what every line repeats, for example the model's name and the env digest.
        sink: where the bytes go.
    """

    def __init__(self, facts: dict[str, object], sink: Sink | None = None) -> None:
        self._facts = facts
        self._sink = sink or _write_to_stderr

    def emit(self, event: str, **facts: object) -> None:
        """Write one line.

        Args:
            event: what happened, as a fixed word.
            facts: what is known about it; names carry their units.
        """
        line = {"time": _now(), "event": event, "worker": os.getpid(), **self._facts, **facts}
        self._sink(json.dumps(line, default=str).encode() + b"\n")


def _now() -> str:
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="milliseconds")


def _write_to_stderr(line: bytes) -> None:
    os.write(_STDERR, line)
