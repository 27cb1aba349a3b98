"""One change of state, as every subscriber gets it."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Callable

import structlog

_render = structlog.processors.JSONRenderer(default=str)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Event:
    """One change of state.

    Args:
        facts: what is known about it; names carry their units.
        time: when it happened, as ISO 8601 in UTC.
    """

    name: str
    facts: Mapping[str, object]
    time: str = field(default_factory=_now)
    worker: int = field(default_factory=os.getpid)

    @functools.cached_property
    def line(self) -> bytes:
        """One line of JSON, the keys that every event has first."""
        stated = {"time": self.time, "event": self.name, "worker": self.worker, **self.facts}
        text = _render(None, "", stated)
        return (text if isinstance(text, bytes) else text.encode()) + b"\n"


Subscriber = Callable[[Event], None]
