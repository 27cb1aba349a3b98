"""The same server for an event loop: predictions go straight to their handlers, everything else to Flask.

Flask runs in threads, so its views may block; the handlers of predictions only read and write, and what runs the
model is handed to the dispatcher. Any ASGI server can carry this; `serve.connection` is the shorter way under uvicorn.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable

from serve.app.asking import Prediction
from serve.app.bug import report_bug
from serve.app.exchange import Answer, Request, fail
from serve.app.routes import PREDICTION_ROUTES, Handler, Route
from serve.dispatch import Dispatcher
from serve.server import Server

_MOST_REMEMBERED_PATHS = 1000
Found = tuple[Handler, Mapping[str, str]]


class Table:
    """Finds the handler of a prediction by its path.

    Args:
        routes: the prediction routes.
    """

    def __init__(self, routes: Sequence[Route] = PREDICTION_ROUTES) -> None:
        self._routes = [(route.method, _compile(route.pattern), route.handle) for route in routes]
        self._remembered: dict[tuple[str, str], Found] = {}

    def find(self, method: str, path: str) -> Found | None:
        """Find a handler.

        Args:
            method: in capitals.
            path: decoded, without the query.

        Returns:
            The handler and the parts of the path that its route names; `None` where no prediction route fits.
        """
        found = self._remembered.get((method, path))
        if found is None:
            found = next(self._match(method, path), None)
            if found is not None and len(self._remembered) < _MOST_REMEMBERED_PATHS:
                self._remembered[method, path] = found
        return found

    def _match(self, method: str, path: str) -> Iterator[Found]:
        for wanted, pattern, handle in self._routes:
            if wanted == method and (fitting := pattern.fullmatch(path)):
                yield handle, fitting.groupdict()


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<(\w+)>", r"(?P<\1>[^/]+)", pattern))


class AsgiApp:
    """The ASGI application of one worker.

    Args:
        server: has the models.
        rest: an ASGI application for every other path.
        dispatcher: runs the models.
    """

    def __init__(self, server: Server, rest: Any, dispatcher: Dispatcher) -> None:
        self._server, self._rest, self._dispatcher = server, rest, dispatcher
        self.table = Table()
        self.limit_bytes = server.settings.max_body_bytes

    def handle(self, handle: Handler, request: Request, done: Callable[[Answer], None]) -> None:
        """Answer a prediction, now or later in this loop.

        Args:
            handle: of its route.
            request: its bytes.
            done: told the answer.
        """

        def finish(found: Answer | BaseException) -> None:
            done(found if isinstance(found, Answer) else report_bug(self._server, request.path, found))

        try:
            found = handle(self._server, request)
            if isinstance(found, Prediction):
                self._dispatcher.submit(found, finish)
            else:
                done(found)
        except Exception as error:
            finish(error)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request of an ASGI server."""
        found = self.table.find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._rest(scope, receive, send)
            return
        handle, place = found
        headers = headers_of(scope["headers"])
        body = await self._read_body(headers, receive)
        if body is None:
            # A client that awaits our word sends no body; what it sends next would be taken for one.
            closing = {"Connection": "close"} if "expect" in headers else {}
            message = f"the body: expected at most {self.limit_bytes} bytes, found more"
            await _send(send, fail(413, message, closing))
            return
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        query = scope["query_string"].decode("latin-1")
        request = Request(scope["method"], scope["path"], headers, body, place, query)
        self.handle(handle, request, answered.set_result)
        await _send(send, await answered)

    async def _read_body(self, headers: Mapping[str, str], receive: Any) -> bytes | None:
        """Read a body; `None` for one that is too long, of which the server throws the rest away."""
        if int(headers.get("content-length", 0)) > self.limit_bytes:
            return None
        parts: list[bytes] = []
        size_bytes, has_more = 0, True
        while has_more:
            message = await receive()
            part = message.get("body", b"")
            has_more = message.get("more_body", False)
            size_bytes += len(part)
            if size_bytes > self.limit_bytes:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name, those that came more than once joined as WSGI servers join them.

    Args:
        pairs: names in lower case, and values.
    """
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in pairs:
        name, value = name_bytes.decode("latin-1"), value_bytes.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


async def _send(send: Any, answer: Answer) -> None:
    parts = answer.parts
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append((b"content-length", b"%d" % sum(map(len, parts))))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"".join(parts)})
