"""The same server for an event loop: predictions go straight to their handlers, everything else to Flask.

Flask runs in threads, so its views may block; the handlers of predictions only read and write, and what runs the model
is handed to the dispatcher. Any ASGI server can carry this; `serve.workers.http_protocol` is the shorter way under
uvicorn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable

from serve.batching.scheduler import Scheduler
from serve.gateway.request_form import RequestForm, RequestForms, Understood
from serve.gateway.request_lifecycle import HELD_S, Arrival, Origins, RequestContext, RequestLifecycle
from serve.gateway.routes import PREDICTION_ROUTES, PredictionRoute
from serve.http.messages import Request, Response, Table, headers_of
from serve.inference.prediction import Prediction

if TYPE_CHECKING:
    from serve.gateway.server import Server


Done = Callable[[Response], None]


class AsgiApp:
    """The ASGI application of one worker."""

    def __init__(self, server: Server, rest: Any, scheduler: Scheduler) -> None:
        self._server, self._rest, self._scheduler = server, rest, scheduler
        self._lifecycle = RequestLifecycle(server)
        self._forms = RequestForms(server, self._lifecycle, scheduler, self._go_on)
        self._origins = Origins(server.settings.cors_origins) if server.settings.cors_origins else None
        self.table = Table(PREDICTION_ROUTES)
        self.count_slow_client = server.telemetry.worker_metrics.request_counters.reject_slow_client
        self.limit_bytes = server.settings.max_body_bytes
        self.drain = server.telemetry.drain

    def handle(
        self, route: PredictionRoute, request: Request, client: str, done: Done, is_alone: bool = False
    ) -> Understood | None:
        """Answer a prediction, now or later in this loop, alone or with others; return it where the model is run."""
        waiting = self._scheduler.waiting_for(self._lifecycle.model_of(request))
        context = self._lifecycle.open(request, route, Arrival(time.monotonic(), 0.0, waiting), client)
        return self._go_on(context, lambda answer: done(self._share(request, answer)), is_alone)

    def form_of(self, understood: Understood) -> RequestForm | None:
        """Return the form of a request; `None` where it has none of which others could be."""
        return None if self._origins is not None else self._forms.find(*understood)

    def _go_on(self, context: RequestContext, done: Done, is_alone: bool = False) -> Understood | None:
        def finish(found: Response | Exception) -> None:
            done(self._lifecycle.end(context, found))

        found = self._lifecycle.begin(context)
        if self._lifecycle.is_held(context, found):
            asyncio.get_running_loop().call_later(HELD_S, self._go_on, context, done)
            return None
        if not isinstance(found, Prediction):
            finish(found)
            return None
        try:
            self._scheduler.submit(found, finish, context.deadline_s, is_alone)
        except BaseException as error:  # a predictor that cannot say what may share a run
            found.end()
            if not isinstance(error, Exception):
                raise
            finish(error)
            return None
        if is_alone:
            self._scheduler.run_now(found.instance)
        return context, found

    def _share(self, request: Request, answer: Response) -> Response:
        if self._origins is None:
            return answer
        return answer._replace(headers={**answer.headers, **self._origins.headers(request.headers.get("origin"))})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request of an ASGI server."""
        found = self.table.find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._rest(scope, receive, send)
            return
        route, place = found
        headers = headers_of(scope["headers"])
        body = await self._read_body(headers, receive)
        query = scope["query_string"].decode("latin-1")
        request = Request(scope["method"], scope["path"], headers, body or b"", place, query)
        client = scope["client"][0] if scope["client"] else ""
        if body is None:
            context = self._lifecycle.open(request, route, Arrival(time.monotonic()), client)
            refused = self._share(request, self._lifecycle.refuse_body(context, self.limit_bytes))
            # A client that awaits our word sends no body; what it sends next would be taken for one.
            closing = {"Connection": "close"} if "expect" in headers else {}
            await _send(send, refused._replace(headers={**refused.headers, **closing}))
            return
        answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.handle(route, request, client, answered.set_result)
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


async def _send(send: Any, answer: Response) -> None:
    parts = answer.parts
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append((b"content-length", b"%d" % sum(map(len, parts))))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"".join(parts)})
