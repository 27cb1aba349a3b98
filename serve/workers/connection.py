"""The connections of the event-loop worker: HTTP, with what they remember, and with a way to another worker.

A request whose form is known is answered without the parser: what came once is remembered as literals, byte for byte
what the parser has accepted, with holes for the values of headers that nothing reads, for the length of the body, and
for the numbers; what can be in a hole is a subset of what the parser accepts there. A connection whose worker has more
to do than another goes there. All else is `serve.workers.http_protocol`'s."""

from __future__ import annotations

import re
import time
from typing import Any

from serve.batching.batch_queue import FormedRequest
from serve.gateway.request_form import VARYING, AnswerFrame, RequestForm, Understood
from serve.http.messages import Response
from serve.workers.balance import IN_HAND, OPEN, Balance
from serve.workers.http_protocol import Connection, RequestCycle, write_formed

_LONG_FIELD_BYTES = 512  # where a field may be shorter than this, the values of those that differ have to be looked at
_TRACE, _LENGTH, _ANY = b"traceparent", b"content-length", b""
_LONGEST_VALUE_BYTES = 256  # below what any server lets a field have: `remember` looks at nothing else
_VISIBLE = bytes(range(0x20, 0x7F))
# Those of which `serve.observability.spans` returns the value as it is.
_TRACE_PARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_FIELD = re.compile(rb"\r\n([^:\r\n]+): ([^\r\n]+)(?=\r\n)")
_LENGTH_DIGITS = 9
_FIRST, _MOST_MISSES, _TRY_EVERY = 2, 8, 64


class RequestPattern:
    """One form of request: literals, each with the kind of the hole behind it, and the `last`, before the numbers."""

    __slots__ = ("_after", "_body_bytes", "_last", "_limit_bytes", "_pieces", "form")

    def __init__(self, form: RequestForm, pieces: list[tuple[bytes, bytes]], last: bytes, limit_bytes: int) -> None:
        self.form, self._pieces, self._last, self._limit_bytes = form, tuple(pieces), last, limit_bytes
        layout = form.layout
        self._after, self._body_bytes = layout.after, len(layout.before) + len(layout.after)

    def match(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Find a request's numbers and `traceparent`; `None` unless it is one whole request of this form."""
        at, length, trace = 0, -1, b""
        for literal, kind in self._pieces:
            if not data.startswith(literal, at):
                return None
            at += len(literal)
            end = data.find(b"\r", at, at + _LONGEST_VALUE_BYTES)
            value = data[at:end]
            if end <= at or value.translate(None, _VISIBLE):
                return None
            if kind == _LENGTH:
                if not value.isdigit() or len(value) > _LENGTH_DIGITS:
                    return None
                length = int(value)
                if length > self._limit_bytes:
                    return None
            elif kind == _TRACE:
                if _TRACE_PARENT.fullmatch(value) is None:
                    return None
                trace = value
            at = end
        if not data.startswith(self._last, at):
            return None
        begin, end = at + len(self._last), len(data) - len(self._after)
        numbers = data[begin:end]
        if not self.form.layout.fits(numbers) or length not in (-1, self._body_bytes + end - begin):
            return None
        return (numbers, trace) if not self._after or data.endswith(self._after) else None


def remember(data: bytes, body_bytes: int, form: RequestForm, limit_bytes: int) -> RequestPattern | None:
    """Make the pattern of a request that came whole and alone; `None` where its bytes do not show it."""
    head_bytes = len(data) - body_bytes
    if not data.startswith(b"POST ") or data.find(b"\r\n\r\n") + len(b"\r\n\r\n") != head_bytes:
        return None
    pieces, at = [], 0
    for field in _FIELD.finditer(data, 0, head_bytes - len(b"\r\n")):
        name = field[1].lower()
        if name == _LENGTH:
            kind = None if form.layout.size_bytes else _LENGTH
        else:
            kind = (name if name == _TRACE else _ANY) if name.decode("latin-1") in VARYING else None
        if kind is not None:
            pieces.append((data[at : field.start(2)], kind))
            at = field.end(2)
    kinds = [kind for _, kind in pieces]
    last = data[at:head_bytes] + form.layout.before
    if kinds.count(_TRACE) > 1 or not (form.layout.size_bytes or _LENGTH in kinds) or not data.startswith(last, at):
        return None
    return RequestPattern(form, pieces, last, limit_bytes)


class WorkerConnection(Connection):
    """One connection; `given`: what another worker, which gave it away, has read of it; `None` for one of ours."""

    def __init__(self, *, balance: Balance | None = None, given: bytes | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self._is_remembering = self._bounds.field_bytes >= _LONG_FIELD_BYTES
        self._pattern: RequestPattern | None = None
        self._misses, self._whole = 0, b""  # what was read when the parser was between two requests
        self._formed: RequestCycle | None = None
        self._balance, self._given, self._tick, self._is_begun = balance, given, -1, False

    def connection_made(self, transport: Any) -> None:
        """Begin; called by the loop."""
        super().connection_made(transport)
        if self._balance is None:
            return
        self._balance.count(OPEN, 1)
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
            self._balance.count(OPEN, -1)
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

    def on_response_complete(self) -> None:
        """Go on after an answer."""
        if self._is_begun:
            self._note_end()
        super().on_response_complete()

    def _is_given_away(self, balance: Balance, data: bytes) -> bool:
        if not self._is_between or self.scheme != "http" or self.transport.get_write_buffer_size():
            return False
        if not self._is_begun:
            self._is_begun = True
            balance.count(IN_HAND, 1)
        place = balance.place_for_next()
        return place is not None and balance.give(place, self.transport, data)

    def _note_end(self) -> None:
        if self._is_begun and self._balance is not None:
            self._is_begun = False
            self._balance.count(IN_HAND, -1)

    @property
    def _is_between(self) -> bool:
        """Whether nothing is asked, and what comes next may be answered in any way."""
        cycle = self.cycle
        is_idle = cycle is None or cycle.response_complete
        return bool(is_idle and not (self._is_receiving or self.pipeline or self._is_ending or self.flow.write_paused))

    def _read(self, data: bytes) -> None:
        pattern = self._pattern
        if pattern is not None and self._is_between and self._is_answered(pattern, data):
            return
        self._whole = b"" if self._is_receiving else data
        super().data_received(data)

    def _is_answered(self, pattern: RequestPattern, data: bytes) -> bool:
        """Have a request answered that is known by its bytes; false for one that the parser has to read."""
        own, found = self._formed, pattern.match(data)
        if own is None or found is None:
            return False
        self._misses = 0
        self._heard_s = self.loop.time()
        self.cycle, own.response_complete, own.keep_alive = own, False, True
        numbers, trace = found
        request = FormedRequest(numbers, time.monotonic(), trace, self)
        if pattern.form.take(request, self._sole_connection.goes_on(self)):
            return True
        own.response_complete = True
        return False

    def _learn(self, understood: Understood, body_bytes: int, own: RequestCycle) -> None:
        """Remember the form of a request, unless its connection may bring no other, or brings too many of them."""
        self._misses += 1
        is_due = _FIRST <= self._misses <= _MOST_MISSES or not self._misses % _TRY_EVERY
        form = self._predictions.form_of(understood) if self._is_remembering and self._whole and is_due else None
        if form is not None:
            self._pattern = remember(self._whole, body_bytes, form, self._predictions.limit_bytes)
            self._formed = RequestCycle(own.head, True)

    def answer_formed(self, frame: AnswerFrame, outputs: bytes, trace: bytes) -> None:
        """Answer the request that was known by its bytes."""
        own: Any = self._formed
        own.response_complete = True
        if not own.disconnected and not self.transport.is_closing():
            size_bytes = len(frame.before) + len(outputs) + len(frame.after)
            head = write_formed(frame, self.server_state.default_headers, trace, size_bytes, own.keep_alive)
            self.transport.write(b"".join((head, frame.before, outputs, frame.after)))
            if not own.keep_alive:
                self.transport.close()
        self.on_response_complete()

    def answer_alone(self, answer: Response) -> None:
        """Answer the request that was known by its bytes, in the ordinary way."""
        own: Any = self._formed
        self._answer(own, answer)
