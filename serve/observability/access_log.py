"""The access log: one JSON line for each answered request, with the sha256 of the model that answered.

To standard output, apart from the events on standard error, each line by a single write. Written only where
`access_log = true` is set: it costs more than all other counting together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Callable

from serve.observability.spans import TraceParent

Sink = Callable[[bytes], None]
_STDOUT = 1
# The headers of an answer that state its provenance, by their keys in the line.
_PROVENANCE = {
    "model": "X-Model-Name",
    "version": "X-Model-Version",
    "generation": "X-Model-Generation",
    "sha256": "X-Model-SHA256",
}

ENV_HEADER = "X-Env-Digest"


@dataclass(frozen=True)
class LoggedRequest:
    """One request and its answer."""

    method: str
    path: str
    client: str
    status: int
    seconds: float
    taken_bytes: int
    given_bytes: int
    headers: Mapping[str, str]
    trace: TraceParent | None


def provenance_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return `model`, `version`, `generation` and `sha256` of an answer, as far as its headers state them."""
    return {name: headers[header] for name, header in _PROVENANCE.items() if header in headers}


class AccessLog:
    """Writes the lines of one worker."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._sink = sink or _write_to_stdout

    def put(self, logged: LoggedRequest) -> None:
        """Write one line."""
        line: dict[str, object] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "event": "request",
            "worker": os.getpid(),
            "client": logged.client,
            "method": logged.method,
            "path": logged.path,
            "status": logged.status,
            "seconds": round(logged.seconds, 6),
            "taken_bytes": logged.taken_bytes,
            "given_bytes": logged.given_bytes,
            **provenance_of(logged.headers),
        }
        if ENV_HEADER in logged.headers:
            line["env_digest"] = logged.headers[ENV_HEADER]
        if logged.trace is not None:
            line.update(trace_id=logged.trace.trace_id, span_id=logged.trace.span_id)
        self._sink(json.dumps(line).encode() + b"\n")


def _write_to_stdout(line: bytes) -> None:
    os.write(_STDOUT, line)
