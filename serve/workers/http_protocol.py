"""One HTTP connection under uvicorn, with a shorter way for the requests that matter.

A plain prediction request (`POST` to a prediction route, HTTP/1.1, a stated length) goes from the parser to its handler
without a task, an ASGI message or a copy of the body. Everything else, and everything unusual (chunked bodies,
`Expect`, HTTP/1.0, pipelined requests, a peer that does not read), takes uvicorn's own way, so that there is
one implementation of it.

It adds rules that uvicorn does not have: for a request's head, an offered upgrade, and the time that a peer may take.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.batching.bundle import FormedRequest
from serve.batching.scheduler import SoleConnection
from serve.gateway.asgi_app import AsgiApp
from serve.gateway.request_form import AnswerFrame, Understood
from serve.http.messages import Request, Response, fail
from serve.workers import balance, header_cache
from serve.workers.balance import Balance
from serve.workers.form_cache import FormMemory, RequestPattern
from serve.workers.header_cache import Head, HeaderCache
from serve.workers.request_head import NO_PROXY, Bounds, Fault, find_fault, too_large, without_offer

_JOINED_BYTES = 64 * 1024
# How long a connection that is idle when the worker is to end may still bring a request; after that it is closed.
_LINGER_S = 1.0
# Where a field may be shorter than this, the values of those that differ have to be looked at.
_LONG_FIELD_BYTES = 512


class _NobodyWaits:
    """The event that uvicorn sets on its requests; nothing waits for it here."""

    def set(self) -> None:
        """Do nothing."""


_NOBODY_WAITS = _NobodyWaits()


class RequestCycle:
    """One prediction on a connection: as much of uvicorn's request as its protocol asks for."""

    __slots__ = ("body", "disconnected", "head", "keep_alive", "message_event", "response_complete")

    def __init__(self, head: Head, keep_alive: bool) -> None:
        self.head, self.keep_alive = head, keep_alive
        self.body: list[bytes] = []
        self.response_complete = self.disconnected = False
        # One for all: a cycle that refers to itself would keep its body until the next collection of garbage.
        self.message_event = _NOBODY_WAITS

    def take_body(self) -> bytes:
        """Return the body and forget it, since a connection keeps its last cycle for as long as it is idle."""
        parts, self.body = self.body, []
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Connection(HttpToolsProtocol):  # type: ignore[misc]
    """One connection; uvicorn makes one of these for each.

    Args:
        given: what another worker has read of a connection that it gave away; `None` for one accepted here.
    """

    def __init__(
        self,
        *,
        app: AsgiApp,
        bounds: Bounds,
        heads: HeaderCache,
        sole_connection: SoleConnection,
        balanced: Balance | None = None,
        given: bytes | None = None,
        **uvicorns: Any,
    ) -> None:
        super().__init__(**uvicorns)
        self._predictions, self._bounds, self._heads, self._sole_connection = app, bounds, heads, sole_connection
        self._is_leaving = self._is_receiving = self._is_in_head = False
        self._head_bytes = 0
        self._offering: bytes | None = None
        self._began_s = self._heard_s = self._stuck_s = self._answered_s = 0.0
        self._memory = FormMemory(app.limit_bytes, bounds.field_bytes >= _LONG_FIELD_BYTES)
        self._formed: RequestCycle | None = None
        self._balance, self._given, self._tick, self._is_begun = balanced, given, -1, False

    def connection_made(self, transport: Any) -> None:
        """Begin; called by the loop."""
        super().connection_made(transport)
        self._heard_s = self.loop.time()
        if self._balance is None:
            return
        self._balance.count(balance.OPEN, 1)
        if self._given:
            data, self._given = self._given, b""
            self._read(data)
        elif self._given is None and self.scheme == "http":
            place = self._balance.place_for_new()
            if place is not None:
                self._balance.give(place, transport, b"")

    def connection_lost(self, exc: Exception | None) -> None:
        """End; called by the loop."""
        if self._balance is not None:
            self._balance.count(balance.OPEN, -1)
            self._note_end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer what came, or give it to another worker that has less to do; called by the loop."""
        if self._balance is not None and not self._is_receiving:
            if self._tick != self._balance.tick:
                self._tick = self._balance.tick
                self._balance.asking += 1
            if self._balance.is_watching and self._is_given_away(self._balance, data):
                return
        self._read(data)

    def _is_given_away(self, balanced: Balance, data: bytes) -> bool:
        if not self._is_between or self.scheme != "http" or self.transport.get_write_buffer_size():
            return False
        if not self._is_begun:
            self._is_begun = True
            balanced.count(balance.IN_HAND, 1)
        place = balanced.place_for_next()
        return place is not None and balanced.give(place, self.transport, data)

    def _note_end(self) -> None:
        if self._is_begun and self._balance is not None:
            self._is_begun = False
            self._balance.count(balance.IN_HAND, -1)

    @property
    def _is_between(self) -> bool:
        """Whether nothing is asked, and what comes next may be answered in any way."""
        cycle = self.cycle
        is_idle = cycle is None or cycle.response_complete
        return is_idle and not (self._is_receiving or self.pipeline or self._is_ending or self.flow.write_paused)

    def _read(self, data: bytes) -> None:
        """Parse what came, unless its form is known."""
        self._heard_s = self.loop.time()
        if self._memory.pattern is not None and self._is_formed(self._memory.pattern, data):
            return
        self._memory.whole = b"" if self._is_receiving else data
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(Fault(400, f"the request: expected HTTP/1.1, found {error}"))
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._bounds.head_bytes:
                self._refuse(too_large(self._bounds))

    def _is_formed(self, pattern: RequestPattern, data: bytes) -> bool:
        """Have a request answered that is known by its bytes; false for one that the parser has to read."""
        own, found = self._formed, self._memory.recall(data) if self._is_between else None
        if own is None or found is None:
            return False
        self.cycle, own.response_complete, own.keep_alive = own, False, True
        request = FormedRequest(found.numbers, time.monotonic(), found.trace, self)
        if pattern.form.take(request, self._sole_connection.goes_on(self)):
            return True
        own.response_complete = True
        return False

    def _learn(self, understood: Understood, body_bytes: int, own: RequestCycle) -> None:
        form = self._predictions.form_of(understood)
        if form is not None:
            self._memory.learn(body_bytes, form)
            self._formed = RequestCycle(own.head, True)

    def answer_formed(self, frame: AnswerFrame, outputs: bytes, trace: bytes) -> None:
        """Answer the request that was known by its bytes."""
        own: Any = self._formed
        own.response_complete = True
        if not own.disconnected and not self.transport.is_closing():
            size_bytes = len(frame.before) + len(outputs) + len(frame.after)
            defaults = self.server_state.default_headers
            head = header_cache.write_formed(frame, defaults, trace, size_bytes, own.keep_alive)
            self.transport.write(b"".join((head, frame.before, outputs, frame.after)))
            if not own.keep_alive:
                self.transport.close()
        self.on_response_complete()

    def answer_alone(self, answer: Response) -> None:
        """Answer the request that was known by its bytes, in the ordinary way."""
        own: Any = self._formed
        self._answer(own, answer)

    def _parse(self, data: bytes) -> None:
        while not self.transport.is_closing():
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as end_of_head:
                data = data[end_of_head.args[0] :]
                self._ignore_offer()

    def _ignore_offer(self) -> None:
        # The parser has dropped the head, and would take the body for the next request: another one begins with it.
        head, self._offering = self._offering, None
        if head is not None and not self.transport.is_closing():
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(head)

    def eof_received(self) -> bool:
        """Keep the connection open for an answer when the peer has closed its side; called by the loop."""
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
        parser = self.parser
        if parser.should_upgrade():
            self._note_offer(parser.get_method(), parser.get_http_version())
            return
        head = self._heads.read(self.url, self.headers) if self._is_plain() else None
        if head is not None and head.is_plain:
            self.cycle = RequestCycle(head, parser.should_keep_alive() and not self._is_ending)
            return
        fault = find_fault(self._bounds, parser.get_http_version(), self.url, self.headers)
        if fault is None:
            self._take_uvicorns_way()
        else:
            self._refuse(fault)

    def _note_offer(self, method: bytes, version: str) -> None:
        if method == b"CONNECT":
            self._refuse(NO_PROXY)
        else:
            self._offering = without_offer(method, self.url, version, self.headers)

    def _take_uvicorns_way(self) -> None:
        url, expects = self.url, self.expect_100_continue
        headers = self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # in the list that uvicorn has put into the scope
        super().on_headers_complete()
        cycle: Any = self.cycle
        cycle.keep_alive = self.parser.should_keep_alive() and not self._is_ending
        if cycle.keep_alive and self.scope["http_version"] == "1.0":  # such a client has to be told
            cycle.default_headers = [*cycle.default_headers, (b"connection", b"keep-alive")]

    def on_body(self, body: bytes) -> None:
        """Keep a part of a body; called by the parser."""
        if isinstance(self.cycle, RequestCycle):
            self.cycle.body.append(body)
        elif not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer a request; called by the parser."""
        if self._offering is not None:
            return
        self._is_receiving = False
        if not isinstance(self.cycle, RequestCycle):
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
        is_alone, keeps = self._sole_connection.goes_on(self), own.keep_alive
        done = functools.partial(self._answer, own)
        understood = self._predictions.handle(route, request, client, done, is_alone)
        if understood is not None and keeps and self._memory.wants():
            self._learn(understood, len(request.body), own)

    def on_response_complete(self) -> None:
        """Go on after an answer; called by uvicorn's way too."""
        self._note_end()
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
            super().shutdown()  # its answer is the last one and states it
        else:
            # A request that is on its way gets its answer, too.
            self.loop.call_later(_LINGER_S, self._leave)

    def pause_writing(self) -> None:
        """Note that the peer does not read; called by the loop."""
        super().pause_writing()
        self._stuck_s = self.loop.time()

    def check(self, now_s: float) -> None:
        """Close the connection if its peer takes too long."""
        timeout_s = self._bounds.timeout_s
        is_silent = now_s - self._heard_s > timeout_s
        is_late = self._is_in_head and now_s - self._began_s > timeout_s
        if is_late or (self._is_receiving and is_silent and not self.flow.read_paused):
            self._predictions.count_slow_client()
            self._refuse(Fault(408, f"the request: expected to go on within {timeout_s:g} s"))
        elif self.flow.write_paused and now_s - self._stuck_s > timeout_s:
            self._predictions.count_slow_client()
            self.transport.abort()
        elif self._is_idle(now_s):
            self.transport.close()

    def _is_idle(self, now_s: float) -> bool:
        if self.cycle is None:  # it has never asked for anything
            return now_s - self._heard_s > self._bounds.timeout_s
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
        )

    def _answer(self, own: RequestCycle, answer: Response) -> None:
        own.response_complete = True
        if not own.disconnected and not self.transport.is_closing():
            self._write(answer, own.keep_alive)
        self.on_response_complete()

    def _write(self, answer: Response, keep_alive: bool) -> None:
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

    def _refuse(self, fault: Fault) -> None:
        if not self.transport.is_closing():
            self._write(fail(fault.status, fault.message), keep_alive=False)
