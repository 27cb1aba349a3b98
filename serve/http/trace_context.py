"""W3C trace context: which trace a request belongs to, passed through to the log and the answer.

Source: https://www.w3.org/TR/trace-context/ (version 00, parts of later versions as section 4.3 asks). Reporting spans
to a collector is `serve.observability.spans`, with the extra `otel`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True)
class TraceParent:
    """The place of a request in a trace.

    Args:
        trace_id: of the whole trace, 32 hexadecimal digits.
        span_id: of the caller's span, 16 hexadecimal digits.
        flags: two hexadecimal digits; the lowest bit states that the caller records the trace.
    """

    trace_id: str
    span_id: str
    flags: str

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
