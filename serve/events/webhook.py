"""The event hook: each log line to a command's standard input, or by POST to a URL.

In a thread of its own behind a bounded queue: whatever the hook does, the thread that swaps only puts a line into the
queue, or, when that is full, drops it. Retrying and storing are out of scope; the log has every line."""

from __future__ import annotations

import os
import queue
import shlex
import subprocess
import threading
import urllib.request
from typing import Any, Callable

from serve.events.event_log import Event

_QUEUE_LINES = 1000
_TIMEOUT_S = 10.0


class Webhook:
    """Delivers lines in the background, to a command or a URL; `report` gets why not, and must not lead back here."""

    def __init__(self, target: str, report: Callable[[str], None], timeout_s: float = _TIMEOUT_S) -> None:
        self._target, self._report, self._timeout_s = target, report, timeout_s
        self._lines: queue.Queue[bytes] = queue.Queue(_QUEUE_LINES)
        self._thread: tuple[int, threading.Thread] | None = None
        self._last_failure: str | None = None

    def put(self, event: Event) -> None:
        """Have an event's line delivered, some time, or drop it when too many wait; a subscriber of `EventLog`."""
        try:
            self._lines.put_nowait(event.line)
        except queue.Full:
            self._report_once(f"more than {_QUEUE_LINES} events wait; some were dropped")
            return
        # Threads do not survive a fork, so the first line in each process starts one.
        if self._thread is None or self._thread[0] != os.getpid():
            thread = threading.Thread(target=self._deliver_all, name="event-hook", daemon=True)
            self._thread = os.getpid(), thread
            thread.start()

    def _deliver_all(self) -> None:
        while True:
            line = self._lines.get()
            try:
                self._deliver(line)
                self._last_failure = None
            except Exception as error:  # whatever the command or the network does
                self._report_once(f"{type(error).__name__}: {error}")

    def _deliver(self, line: bytes) -> None:
        if not self._target.startswith(("http://", "https://")):
            silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run(shlex.split(self._target), input=line, timeout=self._timeout_s, check=True, **silent)
            return
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._target, line, headers)  # noqa: S310 - the scheme was checked above
        with urllib.request.urlopen(request, timeout=self._timeout_s) as response:  # noqa: S310
            response.read()

    def _report_once(self, failure: str) -> None:
        if failure != self._last_failure:
            self._last_failure = failure
            self._report(failure)
