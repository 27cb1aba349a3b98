"""The status page: one HTML file, its style and its scripts, sent as they lie here.

No build step, nothing from other hosts, and a policy that lets the browser run these scripts and no others. What the
page shows is `serve.observability.status_page`'s matter.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from serve.http.messages import Response, fail

_DIRECTORY = Path(__file__).parent
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
ASSETS = ("icon.svg", "index.html", "page.js", "parts.js", "style.css", "traffic.js", "words.js")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked for again each time, so that a page never runs with the scripts of another version.
    "Cache-Control": "no-cache",
}


def send_asset(name: str, known: str | None = None) -> Response:
    """Answer with one file of the page.

    Args:
        name: of the file.
        known: the `If-None-Match` of the request.

    Returns:
        200, 304 when the browser has the same bytes, or 404.
    """
    if name not in ASSETS:
        return fail(404, f"{name}: no such file of the status page")
    body = (_DIRECTORY / name).read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**_HEADERS, "Content-Type": _TYPES[Path(name).suffix], "ETag": tag}
    return Response(304, headers, b"") if known == tag else Response(200, headers, body)
