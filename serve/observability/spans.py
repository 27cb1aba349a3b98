"""What is written of a request: its line of the access log, its W3C trace context, its span by OpenTelemetry.

Spans are reported only where `traces = "otlp"` is set; OpenTelemetry's own variables state where they go, and its
conventions for HTTP servers name their attributes. Source: https://www.w3.org/TR/trace-context/ (version 00, parts of
later versions as section 4.3 asks)."""

from __future__ import annotations

import functools
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable

from serve.errors import Issue, SettingsError
from serve.events.event_log import OUTCOMES, REPLACED, SWAPPED, Event
from serve.http.messages import Request, Response

_FIRST_ERROR = 500
PHASES = ("copy", "hash", "load", "warm_up", "commit")


class Spans:
    """Makes the spans of one worker, after the fork, for it has a thread; raises `SettingsError`: not installed."""

    def __init__(self) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            issue = Issue("traces", f"expected OpenTelemetry, found none: {error}", 'install "envserve[otel]"')
            raise SettingsError([issue]) from error
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "envserve"}
        self._provider = TracerProvider(resource=Resource.create(named))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("envserve")
        self._trace = trace

    def begin(self, method: str, route: str, path: str, parent: TraceParent | None) -> Any:
        """Begin the span of a request, below its caller's."""
        trace, context = self._trace, self._below(parent)
        attributes = {"http.request.method": method, "http.route": route, "url.path": path}
        return self._tracer.start_span(f"{method} {route}", context, trace.SpanKind.SERVER, attributes)

    def _below(self, parent: TraceParent | None) -> Any:
        if parent is None:
            return None
        trace, flags = self._trace, self._trace.TraceFlags(int(parent.flags, 16))
        caller = trace.SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, flags)
        return trace.set_span_in_context(trace.NonRecordingSpan(caller))

    def place_of(self, span: Any) -> TraceParent:
        """Return a span's place in its trace, for the log and the answer."""
        context = span.get_span_context()
        return TraceParent(f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{int(context.trace_flags):02x}")

    def end(self, span: Any, status: int, facts: Mapping[str, str]) -> None:
        """End the span of a request."""
        span.set_attribute("http.response.status_code", status)
        for key, value in facts.items():
            span.set_attribute(f"envserve.{key}", value)
        if status >= _FIRST_ERROR:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def note(self, event: Event) -> None:
        """Report a swap with its phases, one after another, or the end of a trial; a subscriber of `EventLog`."""
        is_swap, ended_ns = event.name == SWAPPED, time.time_ns()
        if not is_swap and event.name not in OUTCOMES:
            return
        simple = (str, int, float)
        facts: dict[str, Any] = {key: value for key, value in event.facts.items() if isinstance(value, simple)}
        phases = {phase: int(1e9 * (facts.get(f"{phase}_s") or 0)) for phase in PHASES if is_swap}
        began_ns = ended_ns - (sum(phases.values()) or int(1e9 * facts.get("seconds", 0)))
        attributes = {f"envserve.{key}": value for key, value in facts.items()}
        name = "swap" if is_swap else f"trial {OUTCOMES[event.name]}"
        # All workers of all hosts put a swap into one trace, below a span that none of them reports.
        trace_id = facts.get("trace_id")
        context = self._below(TraceParent(trace_id, trace_id[:16], "01") if trace_id else None)
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=began_ns)
        context = self._trace.set_span_in_context(span)
        for phase, took_ns in phases.items():
            self._tracer.start_span(phase, context, start_time=began_ns).end(began_ns + took_ns)
            began_ns += took_ns
        if event.name == REPLACED:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(ended_ns)

    def stop(self) -> None:
        """Send what was not sent yet; the worker ends."""
        self._provider.shutdown()


HEADER = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True)
class TraceParent:
    """The place of a request in a trace."""

    trace_id: str  # of the whole trace, 32 hexadecimal digits
    span_id: str  # of the caller's span, 16 hexadecimal digits
    flags: str  # two hexadecimal digits; the lowest bit states that the caller records the trace

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def parse_trace_parent(text: str | None) -> TraceParent | None:
    """Read the header; `None` for a value that the specification states to ignore."""
    found = _FORM.fullmatch((text or "").strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, flags)


Sink = Callable[[bytes], object]
_STDOUT = 1
# The headers of an answer that state its provenance, by their keys in the line.
_PROVENANCE = {"model": "X-Model-Name", "version": "X-Model-Version", "generation": "X-Model-Generation"}
_PROVENANCE["sha256"] = "X-Model-SHA256"
ENV_HEADER = "X-Env-Digest"


def provenance_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return `model`, `version`, `generation` and `sha256` of an answer, as far as its headers state them."""
    return {name: headers[header] for name, header in _PROVENANCE.items() if header in headers}


class AccessLog:
    """Writes the lines of one worker to standard output, each by a single write; costs more than all other counting."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._sink = sink or functools.partial(os.write, _STDOUT)

    def put(self, request: Request, answer: Response, seconds: float, client: str, trace: TraceParent | None) -> None:
        """Write one line."""
        line: dict[str, object] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": "request",
            "worker": os.getpid(), "client": client, "method": request.method, "path": request.path,
            "status": answer.status, "seconds": round(seconds, 6), "taken_bytes": len(request.body),
            "given_bytes": sum(map(len, answer.parts)), **provenance_of(answer.headers),
        }  # fmt: skip
        if ENV_HEADER in answer.headers:
            line["env_digest"] = answer.headers[ENV_HEADER]
        if trace is not None:
            line.update(trace_id=trace.trace_id, span_id=trace.span_id)
        self._sink(json.dumps(line).encode() + b"\n")
