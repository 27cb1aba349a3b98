"""The Flask application: routes that carry bytes to handlers and back.

A handler is a function of a request's bytes to those of a response, so that another server can carry it too. Importing
this imports no torch, and creating the application starts nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from serve.app.asking import complete
from serve.app.body import read_body
from serve.app.bug import report_bug
from serve.app.exchange import Answer, Request, fail
from serve.app.routes import ROUTES, Route
from serve.server import Server
from serve.settings import ServerSettings, load_settings

EXTENSION = "envserve"


def create_app(settings: ServerSettings | None = None) -> Flask:
    """Create the application of one worker.

    Args:
        settings: how to serve; read from the file and the environment when absent.

    Returns:
        The application. Its `extensions["envserve"]` is the `Server`, whose `start` begins the loading.

    Raises:
        SettingsError: the settings cannot be used.
    """
    server = Server(settings or load_settings(os.environ, Path.cwd()))
    app = Flask("serve", static_folder=None)
    app.extensions[EXTENSION] = server
    for route in ROUTES:
        _add_route(app, server, route)
    _add_error_handlers(app, server)
    return app


def _add_route(app: Flask, server: Server, route: Route) -> None:
    limit_bytes = server.settings.max_body_bytes

    def view(**place: str) -> Response:
        body = read_body(request.stream, limit_bytes)
        if body is None:
            return _carry(fail(413, f"the body: expected at most {limit_bytes} bytes, found more"))
        headers = {name.lower(): value for name, value in request.headers}
        found = Request(request.method, request.path, headers, body, place, request.query_string.decode("latin-1"))
        return _carry(complete(route.handle(server, found)))

    app.add_url_rule(route.pattern, f"{route.method} {route.pattern}", view, methods=[route.method])


def _add_error_handlers(app: Flask, server: Server) -> None:
    @app.errorhandler(HTTPException)
    def _http_error(error: HTTPException) -> Response:
        return _carry(fail(error.code or 500, error.description or error.name))

    @app.errorhandler(Exception)
    def _bug(error: Exception) -> Response:
        return _carry(report_bug(server, request.path, error))


def _carry(answer: Answer) -> Response:
    return Response(b"".join(answer.parts), status=answer.status, headers=dict(answer.headers))
