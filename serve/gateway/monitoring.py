"""The handlers of liveness, readiness, the live model, the status page with what it shows, and the metrics.

The page is one HTML file, its style and its scripts, sent as they lie in `page/`: no build step, nothing from other
hosts, and a policy that lets the browser run these scripts and no others."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from serve.http.messages import Request, Response, fail, not_live, succeed
from serve.metrics.metric_families import CONTENT_TYPE
from serve.settings.settings import STABLE

if TYPE_CHECKING:
    from serve.gateway.server import Server
    from serve.inference.model_instance import ModelInstance

_MOST_SHOWN = 1000  # numbers and texts of an example, for a person to read


def livez(server: Server, request: Request) -> Response:
    """Say whether this process is worth keeping."""
    dead = [one for one in server.instances if not one.is_reloading]
    if dead:
        return fail(503, "the reloader is not running", reason=_verdicts(dead))
    empty = [one for one in server.instances if one.slot.live is None]
    waiting = [one for one in empty if not one.operator_requests.is_unloaded()]
    if not waiting:
        return succeed({"live": True})
    reason = _verdicts(waiting)
    if waiting[0].hanging:  # a restart could help
        return fail(503, "nothing is live, and a warm-up that was given up still runs", reason=reason)
    return succeed({"live": True, "reason": reason, "hint": "a restart does not help: what may pass is tried again"})


def _verdicts(instances: Iterable[ModelInstance]) -> str:
    return "; ".join(instance.reloader.status.verdict for instance in instances)


def readyz(server: Server, request: Request) -> Response:
    """Say whether this worker can answer predictions, of every model, and will go on doing so."""
    if server.telemetry.drain.has_begun:
        return fail(503, "the server is shutting down")
    if any(model.stable.is_cut_off for model in server.models.values()):
        return not_live("the fleet has not taken this host in, or is out of its reach")
    waiting = [model.stable for model in server.models.values() if model.stable.slot.live is None]
    return not_live(_verdicts(waiting)) if waiting else succeed({"ready": True})


def model(server: Server, request: Request) -> Response:
    """Describe the live generation of a model, and its other labels."""
    found = server.find(request.place.get("name"))
    live = found.stable.slot.live
    if live is None:
        return not_live(found.stable.reloader.status.verdict)
    predictor = live.predictor
    forms = {"inputs": predictor.inputs, "outputs": predictor.outputs}
    labels = {
        label: None if instance.slot.live is None else instance.slot.live.provenance.as_json()
        for label, instance in found.labels.items()
        if label != STABLE
    }
    description = {
        **live.provenance.as_json(),
        **live.facts,
        "expected_shape": list(predictor.expected_shape),
        **{name: [{**vars(form), "shape": list(form.shape)} for form in forms[name]] for name in forms},
        **({"example": predictor.example} if _count(predictor.example) <= _MOST_SHOWN else {}),
        "can_batch": predictor.can_batch and found.stable.shared_state.unbatched != live.provenance.generation,
        **({"labels": labels} if labels else {}),
        "newest": found.stable.reloader.status.verdict,
    }
    return succeed(description, live.provenance.headers)


def _count(value: object) -> int:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return 1 + sum(map(_count, parts))


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
