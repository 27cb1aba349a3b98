"""A channel over HTTP, read-only, by gunicorn; needs the extra `[web]`. A 304 has all caching headers: a bare one makes
clients forget a sharded index. An index has to be asked for again each time; archives and shards, whose names stand for
their content, may be kept. With a token, each request has to bring it: as `Bearer`, as the password of `Basic`, or in
conda's `/t/<token>/`. Out of scope: TLS, rates and access logs, which belong to a proxy in front of it."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, Unauthorized
from werkzeug.security import safe_join
from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response

from envtool.console import answer
from envtool.errors import ChannelError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_KEPT = re.compile(r".*(\.conda|\.tar\.bz2|\.whl|/shards/[0-9a-f]{64}\.msgpack\.zst)")
_KEPT_S = 24 * 3600
_TOKEN_PATH = re.compile(r"/t/([^/]+)(/.*)")
_WSGI = Callable[["WSGIEnvironment", "StartResponse"], Iterable[bytes]]


class _Answer(Response):
    """Sends Last-Modified with a 304 too, as nginx does; werkzeug would leave it out."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        headers = super().get_wsgi_headers(environ)
        headers.setdefault("Last-Modified", self.headers["Last-Modified"])
        return headers


def application(root: Path, token: str | None = None) -> _WSGI:
    """The application that serves a channel."""
    # Once, since the path is compared for every request.
    resolved = root.resolve()

    def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        try:
            path = _authorized_path(request, token)
            if request.method not in ("GET", "HEAD"):
                raise MethodNotAllowed(["GET", "HEAD"])
            response: Any = _send(request, _find(resolved, path), path, is_private=token is not None)
        except HTTPException as error:
            response = error.get_response(environ)
        return response(environ, start_response)  # type: ignore[no-any-return]

    return serve


def _authorized_path(request: Request, token: str | None) -> str:
    if token is None:
        return request.path
    in_path = _TOKEN_PATH.fullmatch(request.path)
    path = in_path[2] if in_path else request.path
    given = [in_path[1] if in_path else ""]
    if request.authorization:
        given += [request.authorization.token or "", request.authorization.password or ""]
    if not any(hmac.compare_digest(each.encode(), token.encode()) for each in given):
        raise Unauthorized(response=Response("a token is needed\n", 401, {"WWW-Authenticate": 'Basic realm="channel"'}))
    return path


def _find(root: Path, path: str) -> Path:
    joined = safe_join(str(root), path.lstrip("/"))
    hidden = any(part.startswith(".") for part in path.split("/"))
    if joined is None or hidden:
        raise NotFound
    try:
        found = Path(joined).resolve()
        # A link that leads out of the channel shows nothing.
        if found.is_relative_to(root) and found.is_file():
            return found
    except (OSError, ValueError) as error:  # a name that no file can have
        raise NotFound from error
    raise NotFound


def _send(request: Request, found: Path, path: str, *, is_private: bool) -> Response:
    # Opened before it is described: a file that is replaced meanwhile stays the one that was described.
    file = found.open("rb")
    status = os.fstat(file.fileno())
    response = send_file(
        file, request.environ, mimetype="application/json" if path.endswith(".json") else "application/octet-stream",
        etag=f"{status.st_mtime_ns:x}-{status.st_size:x}", last_modified=status.st_mtime, conditional=False,
        response_class=_Answer,
    )  # fmt: skip
    response.content_length = status.st_size
    visibility = "private" if is_private else "public"
    freshness = f"max-age={_KEPT_S}" if _KEPT.fullmatch(path) else "no-cache"
    response.headers["Cache-Control"] = f"{visibility}, {freshness}"
    try:
        return response.make_conditional(request.environ, accept_ranges=True, complete_length=status.st_size)
    except HTTPException:
        file.close()
        raise


def serve(root: Path, bind: str, workers: int, threads: int, token: str | None) -> None:
    """Serve until a signal ends it; port 0 takes a free one, the URL is printed. Raises ChannelError."""
    if not any(root.glob("*/repodata.json")):
        raise ChannelError(f"{root} is no channel: no subdir has a repodata.json", "envtool channel index DIR")
    settings = {"bind": bind, "workers": workers, "threads": threads, "worker_class": "gthread", "loglevel": "warning",
                "proc_name": "envtool channel serve",
                "when_ready": lambda arbiter: answer(f"{arbiter.LISTENERS[0]}/")}  # fmt: skip

    class Application(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return application(root, token)

    Application().run()
