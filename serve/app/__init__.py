"""The Flask application: routes that carry bytes to handlers and back.

A handler is a function of headers and body to status, headers and body, so that another server can carry it too.
Importing this imports no torch, and creating the application starts nothing.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from serve.app import status
from serve.app.answer import Answer, fail
from serve.app.body import read_body
from serve.app.predict import predict
from serve.runtime import Runtime
from serve.settings import Settings, load_settings

EXTENSION = "envserve"


def create_app(settings: Settings | None = None) -> Flask:
    """Create the application of one worker.

    Args:
        settings: how to serve; read from the file and the environment when absent.

    Returns:
        The application. Its `extensions["envserve"]` is the `Runtime`, whose `start` begins the loading.

    Raises:
        SettingsError: the settings cannot be used.
    """
    runtime = Runtime(settings or load_settings(os.environ, Path.cwd()))
    app = Flask("serve", static_folder=None)
    app.extensions[EXTENSION] = runtime
    _add_status_routes(app, runtime)
    _add_error_handlers(app, runtime)

    @app.post("/predict")
    def _predict() -> Response:
        limit_bytes = runtime.settings.max_body_bytes
        body = read_body(request.stream, limit_bytes)
        if body is None:
            return _carry(fail(413, f"the body: expected at most {limit_bytes} bytes, found more"))
        return _carry(predict(runtime.slot, runtime.reloader.verdict, dict(request.headers), body))

    return app


def _add_status_routes(app: Flask, runtime: Runtime) -> None:
    @app.get("/livez")
    @app.get("/healthz")
    def _livez() -> Response:
        return _carry(status.livez(runtime.is_reloading, runtime.reloader.verdict))

    @app.get("/readyz")
    def _readyz() -> Response:
        return _carry(status.readyz(runtime.slot, runtime.reloader.verdict))

    @app.get("/model")
    def _model() -> Response:
        return _carry(status.model(runtime.slot, runtime.reloader.verdict))


def _add_error_handlers(app: Flask, runtime: Runtime) -> None:
    @app.errorhandler(HTTPException)
    def _http_error(error: HTTPException) -> Response:
        return _carry(fail(error.code or 500, error.description or error.name))

    @app.errorhandler(Exception)
    def _bug(error: Exception) -> Response:
        # The client learns nothing of the inside; the log gets all of it.
        runtime.log.emit("request_failed", path=request.path, reason=repr(error), traceback=traceback.format_exc())
        return _carry(fail(500, "the server failed on this request; its log says why"))


def _carry(answer: Answer) -> Response:
    return Response(answer.body, status=answer.status, headers=dict(answer.headers))
