"""The end of a server, in order: readiness drops, then nothing new is accepted, then the last requests are answered.

A load balancer needs a moment to learn that a server ends. Between SIGTERM and the end of accepting, `/readyz` reports
that the server is not ready, everything is answered as before, and each connection is closed after its answer. The flag
is in memory that the master shares with its workers, because only the master gets the signal."""

from __future__ import annotations

import mmap
import signal
from types import FrameType
from typing import Any, Callable

Handler = Callable[[int, "FrameType | None"], Any]


class Drain:
    """Whether the server ends; made in the master, before its workers."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def has_begun(self) -> bool:
        """Whether the server is shutting down."""
        return self._shared[0] != 0

    def begin(self) -> None:
        """Tell all workers that the server ends."""
        self._shared[0] = 1

    def precede(self, handler: Handler, delay_s: float) -> Handler:
        """Put the drop of readiness, for a time, before what a signal does; a second signal does not wait."""

        def begin_and_wait(number: int, frame: FrameType | None) -> None:
            if self.has_begun or not delay_s:
                self.begin()
                handler(number, frame)
                return
            self.begin()
            signal.signal(signal.SIGALRM, lambda *_: handler(number, frame))
            signal.setitimer(signal.ITIMER_REAL, delay_s)

        return begin_and_wait


EXTENSION = "envserve"


def find_server(application: object) -> Any:
    """Return the server of an application; `None` for one that is not ours, or failed before it had one."""
    return getattr(application, "extensions", {}).get(EXTENSION)
