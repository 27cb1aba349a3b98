"""The request threads of a gthread worker, and what gunicorn's own pool does not count: who waits, and since when.

Also the guard against slow clients: a thread is held by its connection while it reads the request and writes the
answer, so a connection that is too slow at either is shut down. Gunicorn itself would let it hold the thread for ever.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable

_LOOK_S = 0.5


@dataclass(eq=False)
class Ticket:
    """One connection that has, or waits for, a thread."""

    connection: Any  # gunicorn's; its `sock` is the socket
    pool: RequestPool
    queued_s: float = field(default_factory=time.monotonic)  # since when it waits, on the monotonic clock
    waited_s: float = 0.0  # how long it has waited for its thread
    idle_since_s: float | None = None  # since when the server waits for the client; `None` while it works
    request: Any = None  # gunicorn's, once its headers are read

    def work(self) -> None:
        """The request is read; what takes time now is ours."""
        self.idle_since_s = None

    def hang_up(self) -> None:
        """Close the connection after the answer, so that the client's next attempt may reach another worker."""
        if self.request is not None:
            self.request.force_close()

    def end_answer(self) -> None:
        """Tell the client that nothing follows the answer, while it may still send."""
        with contextlib.suppress(OSError):
            self.connection.sock.shutdown(socket.SHUT_WR)

    def write(self) -> None:
        """The answer is made; what takes time now is the client's."""
        self.idle_since_s = time.monotonic()


_here = threading.local()


def current_ticket() -> Ticket | None:
    """Return the ticket of this thread's request; `None` under another server."""
    return getattr(_here, "ticket", None)


@dataclass(frozen=True)
class SlowClients:
    """How slow clients are treated."""

    timeout_s: float = 30.0  # how long a client may take to send its request, and to take its answer
    report: Callable[[], None] = lambda: None  # called for each connection that was shut down


class RequestPool(ThreadPoolExecutor):
    """The request threads of one worker; `find_rule`, for slow clients, is called with the first connection."""

    def __init__(self, threads: int, find_rule: Callable[[], SlowClients]) -> None:
        super().__init__(max_workers=threads, thread_name_prefix="request")
        self._find_rule = find_rule
        self._running: set[Ticket] = set()
        self.waiting = 0  # connections, for a thread
        self._lock = threading.Lock()
        self._guard: threading.Thread | None = None

    def submit(self, work: Callable[..., Any], *arguments: Any, **more: Any) -> Future[Any]:  # type: ignore[override]
        """Have gunicorn's handler work on a connection."""
        ticket = Ticket(arguments[0], self)
        with self._lock:
            self.waiting += 1
            if self._guard is None:
                self._guard = threading.Thread(target=self._watch, name="slow-clients", daemon=True)
                self._guard.start()
        return super().submit(self._run, ticket, work, *arguments, **more)

    def _run(self, ticket: Ticket, work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        ticket.idle_since_s = time.monotonic()
        ticket.waited_s = ticket.idle_since_s - ticket.queued_s
        with self._lock:
            self.waiting -= 1
            self._running.add(ticket)
        _here.ticket = ticket
        try:
            return work(*arguments, **more)
        finally:
            _here.ticket = None
            with self._lock:
                self._running.discard(ticket)

    def _watch(self) -> None:
        rule = self._find_rule()
        while not self._shutdown:
            time.sleep(min(_LOOK_S, rule.timeout_s / 2))
            before_s = time.monotonic() - rule.timeout_s
            with self._lock:
                slow = [one for one in self._running if one.idle_since_s is not None and one.idle_since_s < before_s]
            for ticket in slow:
                ticket.idle_since_s = None
                rule.report()
                with contextlib.suppress(OSError):
                    ticket.connection.sock.shutdown(socket.SHUT_RDWR)
