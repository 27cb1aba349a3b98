"""The connections of the event-loop worker: HTTP, with what they remember, and with a way to another worker.

A request whose form is known is answered without the parser; a connection whose worker has more to do than another goes
there. All else is `serve.workers.http_protocol`'s.
"""

from __future__ import annotations

import time
from typing import Any

from serve.batching.batch_queue import FormedRequest
from serve.gateway.request_form import AnswerFrame, Understood
from serve.http.messages import Response
from serve.workers.balance import IN_HAND, OPEN, Balance
from serve.workers.form_cache import FormMemory, RequestPattern
from serve.workers.http_protocol import Connection, RequestCycle, write_formed

# Where a field may be shorter than this, the values of those that differ have to be looked at.
_LONG_FIELD_BYTES = 512


class WorkerConnection(Connection):
    """One connection; `given`: what another worker, which gave it away, has read of it; `None` for one of ours."""

    def __init__(self, *, balance: Balance | None = None, given: bytes | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self._memory = FormMemory(self._predictions.limit_bytes, self._bounds.field_bytes >= _LONG_FIELD_BYTES)
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
        pattern = self._memory.pattern
        if pattern is not None and self._is_between and self._is_answered(pattern, data):
            return
        self._memory.whole = b"" if self._is_receiving else data
        super().data_received(data)

    def _is_answered(self, pattern: RequestPattern, data: bytes) -> bool:
        """Have a request answered that is known by its bytes; false for one that the parser has to read."""
        own, found = self._formed, pattern.match(data)
        if own is None or found is None:
            return False
        self._memory.misses = 0
        self._heard_s = self.loop.time()
        self.cycle, own.response_complete, own.keep_alive = own, False, True
        request = FormedRequest(found.numbers, time.monotonic(), found.trace, self)
        if pattern.form.take(request, self._sole_connection.goes_on(self)):
            return True
        own.response_complete = True
        return False

    def _learn(self, understood: Understood, body_bytes: int, own: RequestCycle) -> None:
        form = self._predictions.form_of(understood) if self._memory.wants() else None
        if form is not None:
            self._memory.learn(body_bytes, form)
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
