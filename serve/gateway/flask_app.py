"""The Flask application: routes that carry bytes to handlers and back.

A handler is a function of a request's bytes to those of a response, so that another server can carry it too. Importing
this imports no torch, and creating the application starts nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from flask import Flask, request
from flask import Response as FlaskResponse
from werkzeug.exceptions import HTTPException

from serve.errors import RequestError
from serve.gateway.request_lifecycle import Arrival, Origins, RequestLifecycle
from serve.gateway.routes import ROUTES, AnyRoute
from serve.gateway.server import Server
from serve.http.drain import EXTENSION, Drain
from serve.http.messages import Request, Response, fail, read_away, read_body
from serve.http.thread_pool import current_ticket
from serve.settings.settings import ServerSettings, load_settings

# Unavailable: the next attempt may reach another worker. Too large: what is left of the body may have no end.
_LAST_ANSWERS = frozenset({413, 503})


def create_app(settings: ServerSettings | None = None, drain: Drain | None = None) -> Flask:
    """Create the application of one worker, whose `extensions["envserve"]` is the `Server`; raises `SettingsError`."""
    server = Server(settings or load_settings(os.environ, Path.cwd()), drain)
    lifecycle = RequestLifecycle(server)
    app = _Application("serve", static_folder=None)
    app.extensions[EXTENSION] = server
    for route in ROUTES:
        _add_route(app, server, lifecycle, route)
    _add_error_handlers(app, lifecycle)
    if server.settings.cors_origins:
        _share_with(app, Origins(server.settings.cors_origins))
    return app


class _Application(Flask):
    def wsgi_app(self, environ: Any, start_response: Any) -> Any:
        """Answer one request; an upgrade that it offers is ignored, and Werkzeug would refuse a WebSocket's."""
        environ.pop("HTTP_UPGRADE", None)
        return super().wsgi_app(environ, start_response)


def _add_route(app: Flask, server: Server, lifecycle: RequestLifecycle, route: AnyRoute) -> None:
    limit_bytes = server.settings.max_body_bytes

    def view(**place: str) -> FlaskResponse:
        ticket, now_s = current_ticket(), time.monotonic()
        waited_s, waiting = (0.0, 0) if ticket is None else (ticket.waited_s, ticket.pool.waiting)
        arrival = Arrival(now_s - waited_s, waited_s, waiting)
        stream = request.stream
        body = None if (request.content_length or 0) > limit_bytes else read_body(stream, limit_bytes)
        if ticket is not None:
            ticket.work()
        headers = {name.lower(): value for name, value in request.headers}
        query = request.query_string.decode("latin-1")
        found = Request(request.method, request.path, headers, body or b"", place, query)
        context = lifecycle.open(found, route, arrival, request.remote_addr or "")
        answer = lifecycle.refuse_body(context, limit_bytes) if body is None else lifecycle.carry(context)
        response = _carry(answer)
        if ticket is not None:
            if answer.status in _LAST_ANSWERS:
                ticket.hang_up()
            ticket.write()
            if body is None:
                # The answer has gone. A client that is still sending sees it, and the end, before it is cut off.
                response.call_on_close(ticket.end_answer)
                response.call_on_close(lambda: read_away(stream))
        return response

    app.add_url_rule(route.pattern, f"{route.method} {route.pattern}", view, methods=[route.method])


def _share_with(app: Flask, origins: Origins) -> None:
    @app.after_request
    def _share(response: FlaskResponse) -> FlaskResponse:
        asked = {name.lower(): value for name, value in request.headers}
        if request.method == "OPTIONS":
            response.headers.update(origins.preflight(asked, response.headers.get("Allow", "")))
        else:
            response.headers.update(origins.headers(asked.get("origin")))
        return response


def _add_error_handlers(app: Flask, lifecycle: RequestLifecycle) -> None:
    @app.errorhandler(HTTPException)
    def _http_error(error: HTTPException) -> FlaskResponse:
        allowed = dict(error.get_headers()).get("Allow") or ", ".join(getattr(error, "valid_methods", None) or ())
        headers = {"Allow": allowed} if allowed else {}
        return _carry(fail(error.code or 500, error.description or error.name, headers))

    @app.errorhandler(RequestError)
    def _request_error(error: RequestError) -> FlaskResponse:
        ticket = current_ticket()
        if ticket is not None:
            ticket.hang_up()  # where the next request would begin is unknown
        return _carry(fail(error.status, error.message))

    @app.errorhandler(Exception)
    def _bug(error: Exception) -> FlaskResponse:
        return _carry(lifecycle.fail_unknown(request.path, error))


def _carry(answer: Response) -> FlaskResponse:
    return FlaskResponse(b"".join(answer.parts), status=answer.status, headers=dict(answer.headers))
