"""One HTTP connection under uvicorn, with a shorter way for the requests that matter.

A plain prediction request (`POST` to a prediction route, HTTP/1.1, a stated length) goes from the parser to its handler
without a task, an ASGI message or a copy of the body. Everything else, and everything unusual (chunked bodies,
`Expect`, upgrades, HTTP/1.0, pipelined requests, a peer that does not read), takes uvicorn's own way, so that there is
one implementation of it.

Beside that, what uvicorn has no limits for: the size of a request's head, and the time that a peer may take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.gateway.asgi_app import AsgiApp
from serve.http.messages import Answer, Request, fail
from serve.workers import header_cache
from serve.workers.header_cache import Heads
from serve.workers.request_cycle import Cycle

_JOINED_BYTES = 64 * 1024
# How long a connection that is idle when the worker is to end may still bring a request; after that it is closed.
_LINGER_S = 1.0
# So many requests in a row on one connection, and nobody is expected to join the next one.
_LONG_STREAK = 8


@dataclass(frozen=True)
class Bounds:
    """What a peer may do.

    Args:
        line_bytes: the longest request target.
        fields: the most header fields.
        head_bytes: the longest head.
        patience_s: in which a head must be complete, and in which a body or a peer that reads must make progress.
    """

    line_bytes: int
    fields: int
    head_bytes: int
    patience_s: float


class Streak:
    """How many requests in a row came on the same connection; one for all connections of a worker."""

    __slots__ = ("connection", "length")

    def __init__(self) -> None:
        self.connection: object = None
        self.length = 0

    def goes_on(self, connection: object) -> bool:
        """Note a request, and say whether its connection seems to be the only one that asks.

        Args:
            connection: on which it came.
        """
        if connection is not self.connection:
            self.connection, self.length = connection, 0
        self.length += 1
        return self.length > _LONG_STREAK


class Connection(HttpToolsProtocol):  # type: ignore[misc]
    """One connection; uvicorn makes one of these for each.

    Args:
        app: answers predictions.
        bounds: of what the peer may do.
        known: the heads of requests that were understood before.
        streak: of the worker's connections.
        uvicorns: what uvicorn gives its protocols.
    """

    def __init__(self, *, app: AsgiApp, bounds: Bounds, known: Heads, streak: Streak, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._predictions, self._bounds, self._known, self._streak = app, bounds, known, streak
        self._is_leaving = self._is_receiving = self._is_in_head = False
        self._head_bytes = 0
        self._began_s = self._heard_s = self._stuck_s = self._answered_s = 0.0

    def connection_made(self, transport: Any) -> None:
        """Begin; called by the loop."""
        super().connection_made(transport)
        self._heard_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Parse what came; called by the loop."""
        self._heard_s = self.loop.time()
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._bounds.head_bytes:
                self._refuse(431)

    def eof_received(self) -> bool:
        """Answer what was asked before the peer closed its side; called by the loop.

        Returns:
            Whether the connection stays open for that answer.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self._is_receiving or self.scheme == "https":
            return False
        cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        """Begin a request; called by the parser."""
        # No more than a plain request needs; `_take_uvicorns_way` makes up for it.
        self.url, self.expect_100_continue = b"", False
        self.headers: list[tuple[bytes, bytes]] = []
        self._is_receiving = self._is_in_head = True
        self._head_bytes = 0
        self._began_s = self._heard_s

    def on_headers_complete(self) -> None:
        """Decide which way a request takes; called by the parser."""
        self._is_in_head = False
        if len(self.headers) > self._bounds.fields or len(self.url) > self._bounds.line_bytes:
            self._refuse(431 if len(self.url) <= self._bounds.line_bytes else 414)
            return
        head = self._known.read(self.url, self.headers) if self._is_plain() else None
        if head is not None and head.is_plain:
            self.cycle = Cycle(head, self.parser.should_keep_alive() and not self._is_ending)
            return
        self._take_uvicorns_way()

    def _take_uvicorns_way(self) -> None:
        url, expects = self.url, self.expect_100_continue
        headers = self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # in the list that uvicorn has put into the scope
        super().on_headers_complete()
        if self._is_ending:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Keep a part of a body; called by the parser."""
        if isinstance(self.cycle, Cycle):
            self.cycle.body.append(body)
        elif not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer a request; called by the parser."""
        self._is_receiving = False
        if not isinstance(self.cycle, Cycle):
            if not self._is_refused:
                super().on_message_complete()
            return
        own = self.cycle
        head = own.head
        if head.found is None:  # a plain one has a route
            raise RuntimeError(f"{head.path}: expected a route, found none")
        route, place = head.found
        client = self.client[0] if self.client else ""
        request = Request("POST", head.path, head.headers, own.take_body(), place)
        is_alone = self._streak.goes_on(self)
        self._predictions.handle(route, request, client, lambda answer: self._answer(own, answer), is_alone)

    def on_response_complete(self) -> None:
        """Go on after an answer; called by uvicorn's way too."""
        if self.pipeline:
            super().on_response_complete()
            return
        # No timer for each answer, as uvicorn has: `check` looks after idle connections.
        self.server_state.total_requests += 1
        self._answered_s = self.loop.time()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """Let the peer go, without breaking off what it has begun; called by uvicorn when the worker is to end."""
        self._is_leaving = True
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()  # its answer is the last one and says so
        else:
            # A request that is on its way gets its answer, too.
            self.loop.call_later(_LINGER_S, self._leave)

    def pause_writing(self) -> None:
        """Note that the peer does not read; called by the loop."""
        super().pause_writing()
        self._stuck_s = self.loop.time()

    def check(self, now_s: float) -> None:
        """Close the connection if its peer takes too long.

        Args:
            now_s: the loop's time.
        """
        patience_s = self._bounds.patience_s
        is_silent = now_s - self._heard_s > patience_s
        is_late = self._is_in_head and now_s - self._began_s > patience_s
        if is_late or (self._is_receiving and is_silent and not self.flow.read_paused):
            self._predictions.count_slow_client()
            self._refuse(408)
        elif self.flow.write_paused and now_s - self._stuck_s > patience_s:
            self._predictions.count_slow_client()
            self.transport.abort()
        elif self._is_idle(now_s):
            self.transport.close()

    def _is_idle(self, now_s: float) -> bool:
        if self.cycle is None:  # it has never asked for anything
            return now_s - self._heard_s > self._bounds.patience_s
        since_s = max(self._heard_s, self._answered_s)
        is_waiting: bool = self.cycle.response_complete and not self._is_receiving
        return is_waiting and now_s - since_s > self.timeout_keep_alive

    @property
    def _is_ending(self) -> bool:
        return self._is_leaving or self._predictions.is_ending

    @property
    def _is_refused(self) -> bool:
        return bool(self.transport.is_closing())

    def _is_plain(self) -> bool:
        parser, cycle = self.parser, self.cycle
        return (
            parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and (cycle is None or cycle.response_complete)
            and not self.access_log
            and not self.flow.write_paused
            and not parser.should_upgrade()
        )

    def _answer(self, own: Cycle, answer: Answer) -> None:
        own.response_complete = True
        if not own.disconnected and not self.transport.is_closing():
            self._write(answer, own.keep_alive)
        self.on_response_complete()

    def _write(self, answer: Answer, keep_alive: bool) -> None:
        parts: Sequence[Any] = answer.parts
        size_bytes = sum(map(len, parts))
        head = header_cache.write(answer, self.server_state.default_headers, size_bytes, keep_alive)
        if size_bytes < _JOINED_BYTES:
            self.transport.write(b"".join((head, *parts)))
        else:
            self.transport.writelines((head, *parts))
        if not keep_alive:
            self.transport.close()

    def _leave(self) -> None:
        if self._is_receiving:
            self.loop.call_later(_LINGER_S, self._leave)
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            super().shutdown()

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        bounds = self._bounds
        answer = fail(
            status,
            {
                408: f"the request: expected to go on within {bounds.patience_s:g} s",
                414: f"the path: expected at most {bounds.line_bytes} bytes, found {len(self.url)}",
                431: f"the head: expected at most {bounds.fields} fields and {bounds.head_bytes} bytes, found more",
            }[status],
        )
        self._write(answer, keep_alive=False)
