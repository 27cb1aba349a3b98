"""The handlers of the status page, of what it shows, and of the metrics.

The page is one HTML file, its style and its scripts, sent as they lie in `page/`: no build step, nothing from other
hosts, and a policy that lets the browser run these scripts and no others."""

from __future__ import annotations

import hashlib
import os
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from serve.http.messages import Request, Response, fail, succeed
from serve.metrics.metric_families import CONTENT_TYPE

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
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "host": socket.gethostname(),
        "worker": os.getpid(), "env_digest": telemetry.env_digest,
        "has_admin": server.settings.admin_token_file is not None, "is_draining": telemetry.drain.has_begun,
        "models": telemetry.describe(),
    }  # fmt: skip
    return succeed(content, _FRESH)


def page(server: Server, request: Request) -> Response:
    """Send the status page."""
    is_off = server.settings.status_page == "off"
    return _NO_PAGE if is_off else send_asset("index.html", request.headers.get("if-none-match"))


def asset(server: Server, request: Request) -> Response:
    """Send one of the files that the page names."""
    return send_asset(request.place["file"], request.headers.get("if-none-match"))


_DIRECTORY = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
ASSETS = ("icon.svg", "index.html", "page.js", "parts.js", "style.css", "traffic.js", "words.js")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked for again each time, so that a page never runs with the scripts of another version.
    "Cache-Control": "no-cache",
}


def send_asset(name: str, known: str | None = None) -> Response:
    """Answer with one file of the page; 304 where the browser knows its tag (`If-None-Match`), or 404."""
    if name not in ASSETS:
        return fail(404, f"{name}: no such file of the status page")
    body = (_DIRECTORY / name).read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**_HEADERS, "Content-Type": _TYPES[Path(name).suffix], "ETag": tag}
    return Response(304, headers, b"") if known == tag else Response(200, headers, body)
