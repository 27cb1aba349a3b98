"""One HTTP connection under uvicorn, with a shorter way for the requests that matter.

A plain prediction request (`POST` to a prediction route, HTTP/1.1, a stated length) goes from the parser to its handler
without a task, an ASGI message or a copy of the body. Everything unusual (chunked bodies, `Expect`, pipelined requests,
a peer that does not read) takes uvicorn's own way, so that there is one implementation of it. Heads that come or go
over and over are remembered by what they are made of, in bounds. It adds rules that uvicorn does not have: for a
request's head, an offered upgrade, and the time that a peer may take."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.gateway.asgi_app import AsgiApp
from serve.gateway.request_form import AnswerFrame, Understood
from serve.http.messages import LONGEST_READ_AWAY_BYTES, Request, Response, fail
from serve.workers.request_head import (
    NO_PROXY,
    Bounds,
    Fault,
    Field,
    Head,
    HeaderCache,
    Splitter,
    find_fault,
    too_large,
    without_offer,
)

_JOINED_BYTES = 64 * 1024
_LINGER_S = 1.0  # of a connection that is idle when the worker is to end; after that it is closed


_NOBODY_WAITS = SimpleNamespace(set=lambda: None)  # uvicorn sets it; nothing waits for it here


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
    """One connection; uvicorn makes one of these for each."""

    def __init__(
        self, *, app: AsgiApp, bounds: Bounds, heads: HeaderCache, sole_connection: SoleConnection, **uvicorns: Any
    ) -> None:
        super().__init__(**uvicorns)
        self._predictions, self._bounds, self._heads, self._sole_connection = app, bounds, heads, sole_connection
        self._is_leaving = self._is_receiving = self._is_in_head = False
        self._head_bytes = self._left_bytes = 0
        self._offering: bytes | None = None
        self._fault: Fault | None = None
        self._splitter = Splitter()
        self._began_s = self._heard_s = self._stuck_s = self._answered_s = 0.0

    def connection_made(self, transport: Any) -> None:
        """Begin; called by the loop."""
        super().connection_made(transport)
        self._heard_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Parse what came; called by the loop."""
        if self._fault is not None:
            return
        self._heard_s = self.loop.time()
        try:
            for piece in self._splitter.split(data, self._is_in_head, self._is_receiving, self._left_of_body):
                self._parse(piece)
        except httptools.HttpParserError as error:
            fault = Fault(400, f"the request: expected HTTP/1.1, found {error}")
            self._refuse(fault, is_in_body=self._is_receiving and not self._is_in_head)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._bounds.head_bytes:
                self._refuse(too_large(self._bounds))

    def _left_of_body(self) -> int:
        """Return how many bytes of a plain request are still to come; 0 where that is not known."""
        if not self._is_receiving or not isinstance(self.cycle, RequestCycle):
            return 0
        stated = next((value for name, value in self.headers if name == b"content-length"), b"0")
        return max(0, int(stated) - sum(map(len, self.cycle.body)))

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
        if cycle is None or cycle.response_complete or self.scheme == "https":
            return False
        if self._fault is not None:
            return True  # the refusal, which waits for answers, ends the connection
        if self._is_receiving:
            return False
        cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        """Begin a request; called by the parser."""
        self.url, self.expect_100_continue = b"", False  # `_take_uvicorns_way` makes up for the rest
        self.headers: list[tuple[bytes, bytes]] = []
        self._is_receiving = self._is_in_head = True
        self._head_bytes, self._left_bytes = 0, LONGEST_READ_AWAY_BYTES
        self._began_s = self._heard_s

    def on_headers_complete(self) -> None:
        """Decide which way a request takes; called by the parser."""
        self._is_in_head = False
        if self._fault is not None:
            return  # this came in one piece with what was refused
        parser = self.parser
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                self._refuse(NO_PROXY)
            else:
                fields = self.headers
                self._offering = without_offer(parser.get_method(), self.url, parser.get_http_version(), fields)
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

    def _take_uvicorns_way(self) -> None:
        self._splitter.note_head(self.headers)
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
        if self._is_refused:
            return
        if isinstance(self.cycle, RequestCycle):
            self.cycle.body.append(body)
        elif not self.cycle.response_complete:
            super().on_body(body)
        elif (left := self._left_bytes - len(body)) > 0:  # an answer that did not wait for it, as 413 does not
            self._left_bytes = left
        else:
            self.transport.close()

    def on_message_complete(self) -> None:
        """Answer a request; called by the parser."""
        if self._offering is not None or self._is_refused:
            return
        self._is_receiving = False
        if not isinstance(self.cycle, RequestCycle):
            super().on_message_complete()
            return
        own = self.cycle
        head = own.head
        if head.found is None:  # a plain one has a route
            raise RuntimeError(f"{head.path}: expected a route, found none")
        route, place = head.found
        client = self.client[0] if self.client else ""
        request, keeps = Request("POST", head.path, head.headers, own.take_body(), place), own.keep_alive
        is_alone = self._sole_connection.goes_on(self)
        done = functools.partial(self._answer, own)
        understood = self._predictions.handle(route, request, client, done, is_alone)
        if understood is not None and keeps:
            self._learn(understood, len(request.body), own)

    def _learn(self, understood: Understood, body_bytes: int, own: RequestCycle) -> None:
        """See a prediction that was understood, on a connection that goes on."""

    def on_response_complete(self) -> None:
        """Go on after an answer; called by uvicorn's way too."""
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1  # no timer for each answer: `check` looks after idle ones
        self._answered_s = self.loop.time()
        if self._fault is not None:
            self._write_refusal(self._fault)
        elif not self.transport.is_closing():
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """Let the peer go, without breaking off what it has begun; called by uvicorn when the worker is to end."""
        self._is_leaving = True
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()  # its answer is the last one and states it
        else:
            self.loop.call_later(_LINGER_S, self._leave)  # a request that is on its way gets its answer, too

    def pause_writing(self) -> None:
        """Note that the peer does not read; called by the loop."""
        super().pause_writing()
        self._stuck_s = self.loop.time()

    def check(self, now_s: float) -> None:
        """Close the connection if its peer takes too long."""
        timeout_s = self._bounds.timeout_s
        is_silent = now_s - self._heard_s > timeout_s
        is_late = self._is_in_head and now_s - self._began_s > timeout_s
        is_late = is_late or (self._is_receiving and is_silent and not self.flow.read_paused)
        if is_late and self._fault is None:
            self._predictions.count_slow_client()
            fault = Fault(408, f"the request: expected to go on within {timeout_s:g} s")
            self._refuse(fault, is_in_body=not self._is_in_head)
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
        return self._is_leaving or self._predictions.drain.has_begun

    @property
    def _is_refused(self) -> bool:
        return self._fault is not None or bool(self.transport.is_closing())

    def _write_refusal(self, fault: Fault) -> None:
        if not self.transport.is_closing():
            self._write(fail(fault.status, fault.message), keep_alive=False)

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
        head = write_head(answer, self.server_state.default_headers, size_bytes, keep_alive)
        if size_bytes < _JOINED_BYTES:
            self.transport.write(b"".join((head, *parts)))
        else:
            self.transport.writelines((head, *parts))
        if not keep_alive:
            self.transport.close()

    def _leave(self) -> None:
        is_answered = not self._is_in_head and self.cycle is not None and self.cycle.response_complete
        if self._is_receiving and self._fault is None and not is_answered:
            self.loop.call_later(_LINGER_S, self._leave)
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            super().shutdown()

    def _refuse(self, fault: Fault, *, is_in_body: bool = False) -> None:
        """Refuse what comes in, after the answers to what came before: a client tells answers by their order."""
        if self._is_refused:
            return
        if is_in_body and self.pipeline:
            self.pipeline.popleft()  # the newest, of which no more is read
            is_in_body = False
        self._fault = fault
        if is_in_body or self.cycle is None or self.cycle.response_complete:
            self._write_refusal(fault)


_LONG_STREAK = 8  # after so many requests in a row on one connection, no other one is expected to join the next


class SoleConnection:
    """How many requests in a row came on the same connection; one for all connections of a worker."""

    __slots__ = ("connection", "length")

    def __init__(self) -> None:
        self.connection: object = None
        self.length = 0

    def goes_on(self, connection: object) -> bool:
        """Note a request, and say whether its connection seems to be the only one that asks."""
        if connection is not self.connection:
            self.connection, self.length = connection, 0
        self.length += 1
        return self.length > _LONG_STREAK


def write_head(answer: Response, defaults: Sequence[Field], size_bytes: int, keep_alive: bool) -> bytes:
    """Write the head of an answer; raises `ValueError` where a header would be several."""
    begin = _write_head(answer.status, tuple(answer.headers.items()), tuple(defaults))
    return begin + (b"content-length: %d\r\n\r\n" if keep_alive else _CLOSING) % size_bytes


_CLOSING = b"content-length: %d\r\nconnection: close\r\n\r\n"


def write_formed(
    frame: AnswerFrame, defaults: Sequence[Field], trace: bytes, size_bytes: int, keep_alive: bool
) -> bytes:
    """Write the head of an answer with a known frame; the same as `write_head` does."""
    if frame.written is None or frame.written[0] is not defaults:  # uvicorn makes others each second, for the date
        frame.written = defaults, _write_head(200, tuple(frame.headers.items()), tuple(defaults))
    begin: bytes = frame.written[1]
    stated = b"traceparent: %b\r\n" % trace if trace else b""
    return b"".join((begin, stated, (b"content-length: %d\r\n\r\n" if keep_alive else _CLOSING) % size_bytes))


@functools.lru_cache(256)
def _write_head(status: int, headers: tuple[tuple[str, str], ...], defaults: tuple[Field, ...]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
    if fields.count("\n") != len(headers) or fields.count("\r") != len(headers):
        raise ValueError("a header: expected one line, found several")
    own = [b"%s: %s\r\n" % header for header in defaults]
    line: bytes = STATUS_LINE[status]
    return b"".join((line, *own, fields.encode("latin-1")))
