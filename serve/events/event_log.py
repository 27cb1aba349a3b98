"""Changes of state for all who subscribe, among them the structured log.

The log has one JSON line for each event. The lines go to standard error beside gunicorn's own, each by a single write,
so that lines of two workers never mix. Access logs and log files are out of scope: gunicorn writes the first, the init
system keeps the second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from serve.events.event import Event, Subscriber

_STDERR = 2


class EventLog:
    """Tells subscribers of events.

    Args:
        facts: what every event repeats, for example the model's name and the env digest.
        subscribers: called with every event, in this order; they must neither wait nor raise.
    """

    def __init__(self, facts: Mapping[str, object], *subscribers: Subscriber) -> None:
        self._facts, self._subscribers = facts, subscribers

    def emit(self, event: str, **facts: object) -> None:
        """Tell of an event.

        Args:
            facts: what is known about it; names carry their units.
        """
        happened = Event(event, {**self._facts, **facts})
        for subscriber in self._subscribers:
            subscriber(happened)


def write_line(event: Event) -> None:
    """Write an event to standard error; a subscriber."""
    os.write(_STDERR, event.line)
