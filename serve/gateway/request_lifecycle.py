"""The work around every handler: counting, deadlines, a full queue, other origins, traces, the access log.

`open`, then `begin`, which has the handler understand the request, then `end`, which lets the answer out; a transport
only reads and writes. One with threads runs the model in between by `carry`, which alone waits; one with an event loop
by its dispatcher. A rejection is cheap and immediate, so that a client can try another server."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from serve.batching.scheduler import LateError
from serve.errors import HeldError, InputError, NotServedError, RequestError
from serve.http.messages import RETRY_AFTER_S, Request, Response, Route, fail
from serve.inference.prediction import Prediction, complete
from serve.metrics.request_counters import DEADLINE, QUEUE_FULL, TOO_LARGE, Served
from serve.observability.spans import HEADER, TraceParent, parse_trace_parent, provenance_of

if TYPE_CHECKING:
    from serve.gateway.server import Server

HELD_S = 0.001  # between two attempts of a request that may not start: a fence lasts for some of these


class RequestContext(NamedTuple):
    """A request that is being answered."""

    request: Request
    route: Route[Any, Any]
    model: str  # empty where the request names none of the models
    arrival: Arrival
    deadline_s: float | None  # after which nobody waits, on the monotonic clock; `None` for a malformed timeout
    client: str
    trace: TraceParent | None
    span: Any


class RequestLifecycle:
    """Lets requests in, and answers out, of one worker."""

    def __init__(self, server: Server) -> None:
        self._server, self._telemetry = server, server.telemetry
        self._sole = next(iter(server.models)) if len(server.models) == 1 else ""
        self._hold_s = next(server.instances).settings.fleet_hold_s

    def model_of(self, request: Request) -> str:
        """Return the name of the model that a request asks for; empty where there is no such model."""
        name = request.place.get("name", self._sole)
        return name if name in self._server.models else ""

    def open(self, request: Request, route: Route[Any, Any], arrival: Arrival, client: str = "") -> RequestContext:
        """Let a request in."""
        model = self.model_of(request)
        stated, span = request.headers.get(HEADER), None
        trace = None if stated is None else parse_trace_parent(stated)
        if route.protocol:
            self._telemetry.worker_metrics.request_counters.begin(model, arrival.waited_s)
            if self._telemetry.spans is not None:
                span = self._telemetry.spans.begin(request.method, route.pattern, request.path, trace)
                trace = self._telemetry.spans.place_of(span)
        timeout_s = read_timeout(request.headers, self._server.settings.request_timeout_s)
        deadline_s = None if timeout_s is None else arrival.arrived_s + timeout_s
        return RequestContext(request, route, model, arrival, deadline_s, client, trace, span)

    def reject(self, context: RequestContext) -> Response | None:
        """Return the answer to a prediction that is not to be worked on; `None` for every other request."""
        if not context.route.protocol:
            return None
        if context.deadline_s is None:
            stated = context.request.headers[TIMEOUT_HEADER]
            return fail(400, f"{TIMEOUT_HEADER}: expected a number of seconds above 0, found {stated!r}")
        rejection = admit(context.arrival, context.deadline_s, self._server.settings.max_queue, time.monotonic())
        if rejection is None:
            return None
        self._telemetry.worker_metrics.request_counters.reject(context.model, rejection.reason)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if rejection.reason == QUEUE_FULL else {}
        return fail(rejection.status, rejection.message, headers)

    def close(self, context: RequestContext, answer: Response) -> Response:
        """Count and log an answer; return it with its place in the trace."""
        seconds = time.monotonic() - context.arrival.arrived_s
        if context.trace is not None:
            answer = answer._replace(headers={**answer.headers, HEADER: str(context.trace)})
        if context.route.protocol:
            label = answer.headers.get("X-Model-Label", "")
            served = Served(context.model, label, context.route.protocol, answer.status)
            self._telemetry.worker_metrics.request_counters.end(served, seconds)
        if context.span is not None and self._telemetry.spans is not None:
            self._telemetry.spans.end(context.span, answer.status, provenance_of(answer.headers))
        if self._telemetry.access_log is not None:
            self._telemetry.access_log.put(context.request, answer, seconds, context.client, context.trace)
        return answer

    def begin(self, context: RequestContext) -> Response | Prediction | Exception:
        """Have the handler understand a request, unless it is turned away; `end` takes all but a prediction to run."""
        try:
            found: Response | Prediction = self.reject(context) or context.route.handle(self._server, context.request)
            return found
        except Exception as error:  # a bug of a handler
            return error

    def is_held(self, context: RequestContext, found: object) -> bool:
        """Whether a request is to begin again in `HELD_S`, as it may not start now and has time left."""
        return isinstance(found, HeldError) and time.monotonic() - context.arrival.arrived_s < self._hold_s

    def end(self, context: RequestContext, found: Response | Exception) -> Response:
        """Let out an answer, or the one to an error."""
        if isinstance(found, HeldError):
            found = fail(503, found.message, {"Retry-After": str(RETRY_AFTER_S)})
        if isinstance(found, LateError):
            found = self.reject(context) or found
        if isinstance(found, Exception):
            found = self.fail_unknown(context.request.path, found)
        return self.close(context, found)

    def carry(self, context: RequestContext) -> Response:
        """Bring a request to its end in this thread."""
        found = self.begin(context)
        while self.is_held(context, found):
            time.sleep(HELD_S)
            found = self.begin(context)
        if isinstance(found, Prediction):
            try:
                found = complete(found, context.deadline_s)
            except Exception as error:  # a module that failed
                found = error
        return self.end(context, found)

    def refuse_body(self, context: RequestContext, limit_bytes: int) -> Response:
        """Answer a request whose body is too long."""
        if context.route.protocol:
            self._telemetry.worker_metrics.request_counters.reject(context.model, TOO_LARGE)
        return self.end(context, fail(413, f"the body: expected at most {limit_bytes} bytes, found more"))

    def fail_unknown(self, path: str, error: Exception) -> Response:
        """Answer a request for what is not served, one that cannot be read, or a failure of ours, which the log has."""
        if isinstance(error, NotServedError):
            return fail(404, error.message)
        if isinstance(error, (InputError, RequestError)):  # the former where it is found when the model runs
            return fail(error.status if isinstance(error, RequestError) else 422, error.message)
        log = next(self._server.instances).log
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        log.emit("request_failed", path=path, reason=repr(error), traceback=text)
        return fail(500, "the server failed on this request; its log has the reason")


TIMEOUT_HEADER = "x-request-timeout"


class Rejection(NamedTuple):
    """Why a request is not worked on."""

    status: int
    reason: str
    message: str


class Arrival(NamedTuple):
    """A request at the moment at which its work begins."""

    arrived_s: float  # when it came, on the monotonic clock
    waited_s: float = 0.0
    waiting: int = 0  # how many other requests wait behind it


def read_timeout(headers: Mapping[str, str], default_s: float) -> float | None:
    """Read how long a client wants to wait: infinity for 0 of the default, `None` for a malformed header."""
    stated = headers.get(TIMEOUT_HEADER)
    if stated is None:
        return default_s or math.inf
    try:
        timeout_s = float(stated)
    except ValueError:
        return None
    return timeout_s if 0 < timeout_s < math.inf else None


def admit(arrival: Arrival, deadline_s: float, max_queue: int, now_s: float) -> Rejection | None:
    """Return why a request is turned away, by the monotonic clock and by how many wait behind it (0: any)."""
    if now_s > deadline_s:
        after_s = now_s - arrival.arrived_s
        return Rejection(504, DEADLINE, f"the deadline passed before the work began, after {after_s:.3f} s")
    if max_queue and arrival.waiting > max_queue:
        said = f"the queue is full: {arrival.waiting} requests wait, at most {max_queue} may"
        return Rejection(503, QUEUE_FULL, said)
    return None


ANY = "*"
_PREFLIGHT_AGE_S = 600


class Origins:
    """The origins that the setting `cors_origins` allows, `https://example.org` for example; `*` allows all."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(allowed)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return the headers of every answer to a page of an origin; `None` where the request names no origin."""
        if ANY in self._allowed:
            return {"Access-Control-Allow-Origin": ANY, "Access-Control-Expose-Headers": ANY}
        if origin not in self._allowed:
            return {"Vary": "Origin"}
        return {"Access-Control-Allow-Origin": str(origin), "Access-Control-Expose-Headers": ANY, "Vary": "Origin"}

    def preflight(self, asked: Mapping[str, str], methods: str) -> dict[str, str]:
        """Return the headers of the answer to a browser that asks whether it may send a request."""
        found = self.headers(asked.get("origin"))
        if "access-control-request-method" not in asked or "Access-Control-Allow-Origin" not in found:
            return found
        headers = asked.get("access-control-request-headers")
        if headers:
            found["Access-Control-Allow-Headers"] = headers
        return {**found, "Access-Control-Allow-Methods": methods, "Access-Control-Max-Age": str(_PREFLIGHT_AGE_S)}
