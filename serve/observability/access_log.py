"""The access log: one JSON line for each answered request, with the sha256 of the model that answered.

To standard output, apart from the events on standard error, each line by a single write. Written only where
`access_log = true` is set: it costs more than all other counting together.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Callable

from serve.http.messages import Request, Response
from serve.observability.spans import TraceParent

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
    """Writes the lines of one worker."""

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
