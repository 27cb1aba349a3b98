"""The handlers of the status page, of what it shows, and of the metrics."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from serve.gateway.page import send_asset
from serve.http.messages import Request, Response, fail, succeed
from serve.metrics.metric_families import CONTENT_TYPE
from serve.observability.status_page import describe_model

if TYPE_CHECKING:
    from serve.gateway.server import Server

_NO_PAGE = fail(404, "the status page is switched off")
_FRESH = {"Cache-Control": "no-store"}


def metrics(server: Server, request: Request) -> Response:
    """Tell Prometheus."""
    telemetry = server.telemetry
    body = telemetry.worker_metrics.write(telemetry.readings())
    return Response(200, {"Content-Type": CONTENT_TYPE, **_FRESH}, body)


def status_json(server: Server, request: Request) -> Response:
    """Tell what the status page shows."""
    if server.settings.status_page == "off":
        return _NO_PAGE
    telemetry = server.telemetry
    content = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "host": socket.gethostname(),
        "worker": os.getpid(),
        "env_digest": telemetry.env_digest,
        "has_admin": server.settings.admin_token_file is not None,
        "is_draining": telemetry.drain.has_begun,
        "models": [describe_model(look) for look in telemetry.looks()],
    }
    return succeed(content, _FRESH)


def page(server: Server, request: Request) -> Response:
    """Send the status page."""
    if server.settings.status_page == "off":
        return _NO_PAGE
    return send_asset("index.html", request.headers.get("if-none-match"))


def asset(server: Server, request: Request) -> Response:
    """Send one of the files that the page names."""
    return send_asset(request.place["file"], request.headers.get("if-none-match"))
