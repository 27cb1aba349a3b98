"""One structured JSON line for each change of state.

The lines go to standard error beside gunicorn's own, each by a single write, so that lines of two workers never mix.
Access logs and log files are out of scope: gunicorn writes the first, the init system keeps the second.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from datetime import datetime, timezone
from typing import Any, Callable

import structlog

Sink = Callable[[bytes], None]
_STDERR = 2


class EventLog:
    """Write events as JSON lines.

    Args:
        facts: what every line repeats, for example the model's name and the env digest.
        sink: where the bytes go.
    """

    def __init__(self, facts: dict[str, object], sink: Sink | None = None) -> None:
        self._sinks = [sink or _write_to_stderr]
        self._logger = structlog.wrap_logger(
            _Lines(self._sinks),
            processors=[_Stamp(facts), structlog.processors.JSONRenderer(default=str)],
            wrapper_class=structlog.BoundLogger,
        )

    def emit(self, event: str, **facts: object) -> None:
        """Write one line.

        Args:
            event: what happened, as a fixed word.
            facts: what is known about it; names carry their units.
        """
        self._logger.info(event, **facts)

    def also_to(self, sink: Sink) -> None:
        """Give every line to another taker as well.

        Args:
            sink: takes the bytes; it must neither wait nor raise.
        """
        self._sinks.append(sink)


class _Lines:
    """What structlog hands the finished text to."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def info(self, text: str) -> None:
        line = text.encode() + b"\n"
        for sink in self._sinks:
            sink(line)


class _Stamp:
    """A processor that puts the fixed keys first, in the order in which people read them."""

    def __init__(self, facts: dict[str, object]) -> None:
        self._facts = facts

    def __call__(self, logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event = line.pop("event")
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        return {"time": now, "event": event, "worker": os.getpid(), **self._facts, **line}


def _write_to_stderr(line: bytes) -> None:
    os.write(_STDERR, line)
