"""The form of a request: what it has in common with those before it, understood once.

Clients send the same request again and again with other numbers in it. Once one of them was answered, the next of its
form needs no parser, no route and no dialect: it joins a bundle, and what is the same for all of a bundle is done once
for it: the lease, reading the numbers, looking for NaN among them, the run, the answer around the outputs, the counts.
Whatever is unusual, from NaN to a failing module, becomes a request of the ordinary kind again and takes the ordinary
way, so that there is one implementation of it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from serve.batching.batch_queue import Apart, Bundle, FormedRequest
from serve.errors import InputError, NotLiveError
from serve.gateway.request_lifecycle import Arrival, RequestContext, RequestLifecycle
from serve.http.messages import SHORTEST_BYTES, Request, Response
from serve.inference.body_layout import BodyLayout
from serve.inference.prediction import Prediction, with_provenance
from serve.metrics.request_counters import Served
from serve.observability.spans import HEADER, parse_trace_parent

if TYPE_CHECKING:
    from serve.batching.scheduler import Scheduler
    from serve.gateway.server import Server
    from serve.model.slot import Generation

Understood = tuple[RequestContext, Prediction]
GoOn = Callable[[RequestContext, Callable[[Response], None]], Any]
_MOST_FORMS = 256
# Headers that no handler reads, with values that differ from request to request.
VARYING = frozenset(
    {"traceparent", "tracestate", "x-request-id", "request-id", "x-correlation-id", "correlation-id", "x-trace-id"}
    | {"x-amzn-trace-id", "x-cloud-trace-context", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid"}
    | {"uber-trace-id", "idempotency-key", "date"}
)
_INDIFFERENT = VARYING | {"host", "user-agent", "content-length"}  # others that no answer depends on


class AnswerFrame:
    """What is around the outputs in the answers of one form by one generation; `written`: the transport's own."""

    __slots__ = ("after", "before", "headers", "longest_bytes", "written")

    def __init__(self, headers: Mapping[str, str], before: bytes, after: bytes, longest_bytes: float) -> None:
        self.headers, self.before, self.after, self.longest_bytes = headers, before, after, longest_bytes
        self.written: Any = None


class RequestForms:
    """The forms of one worker's requests, as many as are remembered."""

    def __init__(self, server: Server, lifecycle: RequestLifecycle, scheduler: Scheduler, go_on: GoOn) -> None:
        self._server, self._parts = server, (server, lifecycle, scheduler, go_on)
        self._known: dict[Hashable, RequestForm] = {}
        # A line of the access log, or a span, is one for each request.
        self._is_on = server.telemetry.access_log is None and server.telemetry.spans is None

    def find(self, context: RequestContext, prediction: Prediction) -> RequestForm | None:
        """Return the form of a request that the ordinary way has understood; `None` where it has none."""
        predictor = prediction.generation.predictor
        if not self._is_on or len(self._server.models[context.model].labels) > 1 or not predictor.joins_arrays:
            return None
        layout = prediction.dialect.layout(predictor)
        if layout is None:
            return None
        headers = tuple(field for field in context.request.headers.items() if field[0] not in _INDIFFERENT)
        key = (context.request.path, headers, layout)
        form = self._known.get(key)
        if form is None:
            if len(self._known) >= _MOST_FORMS:
                self._known.clear()
            form = self._known[key] = RequestForm(self._parts, context, prediction, layout)
        return form


class RequestForm:
    """One form of the requests of one model."""

    def __init__(
        self, parts: tuple[Server, RequestLifecycle, Scheduler, GoOn], context: RequestContext, prediction: Prediction,
        layout: BodyLayout,
    ) -> None:  # fmt: skip
        self._server, self._lifecycle, self._scheduler, self._go_on = parts
        self.layout, self._context, self._prediction = layout, context, prediction
        self.instance, self._slot = prediction.instance, prediction.instance.slot
        self.timeout_s = (context.deadline_s or 0.0) - context.arrival.arrived_s
        self._counters = self._server.telemetry.worker_metrics.request_counters
        self._max_queue = self._server.settings.max_queue
        self._most = max(1, self.instance.settings.max_batch_size // layout.shape[0])
        body = bytes(context.request.body)
        self._numbers = body[len(layout.before) : len(body) - len(layout.after)]
        self._bundle: Bundle | None = None
        self._known: tuple[Generation | None, Hashable] = (None, None)
        self._frame: tuple[Any, ...] = (None, None, None)

    def take(self, request: FormedRequest, is_alone: bool) -> bool:
        """Answer a request later in this loop; false for one that is to take the ordinary way."""
        recorder = self.instance.recorder
        if recorder is not None and recorder.is_due():
            return False
        if self._max_queue and self._scheduler.waiting_for(self._context.model) > self._max_queue:
            return False
        bundle = self._bundle
        is_full = bundle is None or not bundle.is_open or len(bundle.requests) >= self._most
        if is_full or bundle is None or not self._slot.is_live(bundle.generation):
            bundle = self._bundle = self._open()
            if bundle is None:
                return False
        self._counters.begin(self._context.model)
        self._scheduler.join(self.instance, bundle, request, is_alone)
        return True

    def _open(self) -> Bundle | None:
        """Take a lease for a bundle, unless the live generation takes other inputs than this form has."""
        try:
            generation = self._slot.acquire()
        except NotLiveError:
            return None
        if generation is not self._known[0]:
            predictor, kind = generation.predictor, None
            if predictor.joins_arrays and predictor.inputs == self._prediction.generation.predictor.inputs:
                with contextlib.suppress(InputError):
                    kind = predictor.batch_key(self.layout.read([self._numbers], predictor))
            self._known = generation, kind
        if self._known[1] is None:
            self._slot.release(generation)
            return None
        return self._scheduler.open(self.instance, self, generation, self._known[1])

    def deliver(self, bundle: Bundle, result: Any) -> None:
        """Answer the requests of a bundle, and end its lease."""
        try:
            for request in bundle.refused:
                self._go_on(self._context_of(request), request.owner.answer_alone)
            if isinstance(result, Apart) or not self._answer_together(bundle, result):
                self._answer_apart(bundle, result)
        finally:
            self._slot.release(bundle.generation)

    def _answer_together(self, bundle: Bundle, raw: Any) -> bool:
        requests = bundle.requests
        if not isinstance(raw, np.ndarray):
            return not requests
        try:
            written = self.layout.write(raw, len(requests))
            # Have the ordinary way write the first answer, once for each generation and shape, and keep what is around.
            generation, shape = bundle.generation, (raw.dtype, raw.shape[1:])
            if self._frame[0] is not generation or self._frame[1] != shape:
                predictor, provenance = generation.predictor, generation.provenance
                first = predictor.split(raw, [self.layout.shape[0]] * len(bundle.requests))[0]
                answer = with_provenance(self._prediction.dialect.write(predictor, first, provenance), provenance)
                self._frame = generation, shape, self._frame_around(answer, written[0])
            frame: AnswerFrame | None = self._frame[2]
        except Exception:  # one by one, the ordinary way finds out which
            return False
        if frame is None or max(map(len, written)) > frame.longest_bytes:
            return False
        now_s = time.monotonic()
        served = Served(self._context.model, bundle.generation.provenance.label, self._context.route.protocol, 200)
        self._counters.end(served, *[now_s - request.arrived_s for request in requests])
        for request, outputs in zip(requests, written):
            request.owner.answer_formed(frame, outputs, request.trace)
        return True

    def _frame_around(self, answer: Response, outputs: bytes) -> AnswerFrame | None:
        body = b"".join(answer.parts)
        place = body.find(outputs) if self.layout.is_first else body.rfind(outputs)
        if answer.status != 200 or "Content-Encoding" in answer.headers or place < 0:
            return None
        before, after = body[:place], body[place + len(outputs) :]
        may_pack = "accept-encoding" in self._context.request.headers
        longest_bytes = SHORTEST_BYTES - len(before) - len(after) - 1 if may_pack else float("inf")
        return AnswerFrame(answer.headers, before, after, longest_bytes)

    def _answer_apart(self, bundle: Bundle, raw: Any) -> None:
        rows = [self.layout.shape[0]] * bundle.size
        results = raw if isinstance(raw, Apart) else bundle.generation.predictor.split(raw, rows)
        for request, found in zip(bundle.requests, results):
            if not isinstance(found, Exception):
                prediction = self.prediction_of(bundle, request)
                self._slot.hold(bundle.generation)  # the answer ends one
                try:
                    found = prediction.answer(found)
                except Exception as error:  # the model class may have code of its own here
                    found = error
            request.owner.answer_alone(self._lifecycle.end(self._context_of(request), found))

    def fail(self, request: FormedRequest, error: Exception) -> None:
        """Answer a request with an error."""
        request.owner.answer_alone(self._lifecycle.end(self._context_of(request), error))

    def prediction_of(self, bundle: Bundle, request: FormedRequest) -> Prediction:
        """Return a request of a bundle as one of the ordinary kind."""
        prepare = functools.partial(self.layout.read, [request.numbers])
        prepared = bundle.prepare_some([request])
        return self._prediction._replace(generation=bundle.generation, prepared=prepared, prepare=prepare)

    def _context_of(self, request: FormedRequest) -> RequestContext:
        """Return a request that was let in as one of the ordinary kind."""
        stated, layout = self._context.request, self.layout
        headers = {name: value for name, value in stated.headers.items() if name != HEADER}
        body = b"".join((layout.before, request.numbers, layout.after))
        trace = parse_trace_parent(request.trace.decode()) if request.trace else None
        if trace is not None:
            headers[HEADER] = str(trace)
        asked = Request(stated.method, stated.path, headers, body, stated.place)
        arrival = Arrival(request.arrived_s)
        until_s = request.arrived_s + self.timeout_s
        return self._context._replace(request=asked, arrival=arrival, deadline_s=until_s, trace=trace)
