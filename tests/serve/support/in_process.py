"""The event-loop worker's protocol on transports that only remember: two servers can be fed the same bytes, in step."""

from __future__ import annotations

import asyncio
import json

from predictors import go_live, make_server
from uvicorn.config import Config
from uvicorn.server import ServerState

from serve.batching.scheduler import Scheduler
from serve.gateway.asgi_app import AsgiApp
from serve.observability.spans import AccessLog
from serve.workers.connection import WorkerConnection
from serve.workers.http_protocol import SoleConnection
from serve.workers.request_head import Bounds, HeaderCache


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def get_extra_info(self, name, default=None):
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def not_found(scope, receive, send):
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class Worker:
    """One worker's application with some connections.

    Args:
        predictors: what is live, by the name of the label.
    """

    def __init__(self, directory, toml, predictors, remembers=True) -> None:
        directory.mkdir(parents=True)
        self.server = make_server(directory, 'model = "m:M"\ncheckpoints = "ck"\n' + toml)
        self.events: list[tuple[str, object]] = []
        for instance in self.server.instances:
            instance.log.emit = lambda kind, **facts: self.events.append((kind, facts.get("reason")))
        if self.server.telemetry.access_log is not None:
            self.server.telemetry.access_log = AccessLog(self._take_line)
        self.predictors, self.generation = predictors, 0
        self.swap()
        loop = asyncio.get_running_loop()
        self.counters = self.server.telemetry.worker_metrics.request_counters
        self.scheduler = Scheduler(loop, self.counters.batch)
        self.app = AsgiApp(self.server, not_found, self.scheduler)
        if not remembers:
            self.app.form_of = lambda understood: None
        bounds = Bounds(4094, 100, 8190, 30.0)
        self._shared = {"heads": HeaderCache(self.app.table, self.app.limit_bytes, bounds), "bounds": bounds}
        self._shared.update(app=self.app, sole_connection=SoleConnection(), server_state=ServerState(), app_state={})
        self._config = Config(app=self.app, interface="asgi3", log_config=None)
        self._config.load()
        self.connections: dict[int, WorkerConnection] = {}
        self.past: list[tuple[int, bytes]] = []

    def _take_line(self, line: bytes) -> None:
        content = json.loads(line)
        self.events.append(("request", [content.get(key) for key in ("status", "given_bytes", "version", "trace_id")]))

    def swap(self, is_vacant: bool = False) -> None:
        """Make the next generation live, or none."""
        self.generation += 1
        for instance in self.server.instances:
            if is_vacant:
                instance.slot.vacate()
            else:
                go_live(instance, self.predictors(self.generation), f"v{self.generation}", self.generation)

    def connection(self, number: int) -> WorkerConnection:
        found = self.connections.get(number)
        if found is None or found.transport.closed:
            if found is not None:
                self.past.append((number, found.transport.written))
            found = self.connections[number] = WorkerConnection(config=self._config, **self._shared)
            found.access_log = False
            found.connection_made(Transport())
        return found

    async def settle(self) -> None:
        """Wait until everything is answered."""
        # What a thread computed comes back in a turn of its own, and the next request begins in another.
        quiet_turns = 0
        while quiet_turns < 3:
            await asyncio.sleep(0)
            quiet_turns = 0 if self._is_busy() else quiet_turns + 1

    def _is_busy(self) -> bool:
        if self.scheduler.waiting or any(self.counters._counts.in_flight.values()):
            return True
        open_ones = [one for one in self.connections.values() if not one.transport.closed]
        return any(
            one.pipeline or (one.cycle is not None and not one.cycle.response_complete and not one._is_receiving)
            for one in open_ones
        )

    def seen(self):
        """All that a client and an operator can see."""
        counts = self.counters.take()
        spreads = [{key: sum(each.counts) for key, each in kind.items()} for kind in (counts.latencies, counts.waits)]
        batches = {name: (each.counts, each.total) for name, each in counts.batches.items()}
        written = self.past + [(number, one.transport.written) for number, one in sorted(self.connections.items())]
        leases = [instance.slot._leases for instance in self.server.instances]
        return written, counts.requests, spreads, batches, counts.rejected, counts.in_flight, self.events, leases
