"""The gunicorn worker with an event loop: uvicorn's, with the shorter way for predictions.

`gunicorn -k serve.workers.event_loop_worker.AsgiWorker serve.wsgi:app` serves the same application as gthread does.
Needs the extra `fast`; without it, `serve.gunicorn_conf` chooses gthread. PROXY protocol is refused, as uvicorn has
none."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any, Callable

from a2wsgi import WSGIMiddleware
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from uvicorn.server import Server as Uvicorn
from uvicorn_worker import UvicornWorker

from serve.batching.scheduler import Scheduler
from serve.errors import Issue, SettingsError, describe
from serve.gateway.asgi_app import AsgiApp
from serve.http.drain import find_server
from serve.workers.balance import Balance, Neighbours
from serve.workers.connection import WorkerConnection
from serve.workers.http_protocol import Connection, SoleConnection
from serve.workers.request_head import Bounds, HeaderCache

_SWEEP_S = 1.0
_KNOWN_ERROR = 3
_SWITCH_INTERVAL_S = 0.0005  # the loop and a model's thread take turns; Python's 5 ms are long against a request


class _Uvicorn(Uvicorn):  # type: ignore[misc]
    """Uvicorn as a guest of gunicorn: its own dies of the signal in the end, and `worker_exit` would not be called."""

    def __init__(self, config: Any, on_taking: Callable[[], None], balance: Balance | None) -> None:
        super().__init__(config)
        self._on_taking, self._balance = on_taking, balance
        self._adopting: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: Any = None) -> None:
        """Begin to accept, and to take what other workers give."""
        await super().startup(sockets)
        if self._balance is not None:
            asyncio.get_running_loop().add_reader(self._balance.box, self._balance.receive, self._adopt)
            self._balance.join()
        self._on_taking()

    def _adopt(self, given: socket.socket, data: bytes) -> None:
        given.setblocking(False)
        loop, make = asyncio.get_running_loop(), self.config.http_protocol_class
        state = {"server_state": self.server_state, "app_state": self.lifespan.state}
        make = functools.partial(make, config=self.config, given=data, **state)
        task = loop.create_task(_connect(given, make))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def on_tick(self, counter: int) -> bool:
        """Look after the balance; called ten times a second."""
        if self._balance is not None:
            self._balance.look()
        return bool(await super().on_tick(counter))

    async def shutdown(self, sockets: Any = None) -> None:
        """Take no connections any more, and end."""
        if self._balance is not None:
            self._balance.leave()
            asyncio.get_running_loop().remove_reader(self._balance.box)
            self._balance.receive(self._adopt)
            if self._adopting:
                await asyncio.wait(self._adopting)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals of a graceful end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    def quit(self) -> None:
        """End without waiting for anybody."""
        self.should_exit = self.force_exit = True


async def _connect(given: socket.socket, make: Callable[[], Any]) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(make, given)
    except OSError:  # its peer has gone meanwhile
        given.close()


class AsgiWorker(UvicornWorker):  # type: ignore[misc]
    """One worker process; gunicorn makes it."""

    on_taking: Callable[[], None] = staticmethod(lambda: None)  # called when it accepts requests
    place: tuple[Neighbours, int] | None = None  # its place among its neighbours; `None` where it has none

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scheduler: Scheduler | None = None
        self._balance: Balance | None = None
        # In the master, before anything is served: its first line would be taken for a broken request.
        if self.cfg.proxy_protocol not in (False, None, "off"):
            found = "expected none with worker = asgi, as uvicorn does not speak it"
            hint = "set worker = gthread, or let the proxy send forwarded headers"
            raise HaltServer(describe(SettingsError([Issue("proxy_protocol", found, hint)])), _KNOWN_ERROR)
        self.config.timeout_graceful_shutdown = self.cfg.graceful_timeout
        self.config.server_header = False

    @property
    def queued(self) -> int:
        """How many predictions wait for their model."""
        return 0 if self._scheduler is None else self._scheduler.waiting

    async def _serve(self) -> None:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        loop = asyncio.get_running_loop()
        rest = WSGIMiddleware(self.wsgi, workers=self.cfg.threads)
        server = find_server(self.wsgi)
        self.config.app = rest
        scheduler = None
        if server is not None:
            scheduler = self._scheduler = Scheduler(loop, server.telemetry.worker_metrics.request_counters.batch)
            if self.place is not None:
                self._balance = Balance(*self.place, lambda: self._scheduler is not None and self._scheduler.is_long)
            app, cfg, timeout_s = AsgiApp(server, rest, scheduler), self.cfg, server.settings.client_timeout_s
            bounds = Bounds(cfg.limit_request_line, cfg.limit_request_fields, cfg.limit_request_field_size, timeout_s)
            heads = HeaderCache(app.table, app.limit_bytes, bounds)
            parts: dict[str, Any] = {"app": app, "bounds": bounds, "heads": heads, "balance": self._balance}
            self.config.app = app
            self.config.http = functools.partial(WorkerConnection, sole_connection=SoleConnection(), **parts)
        uvicorn = _Uvicorn(self.config, self.on_taking, self._balance)
        loop.add_signal_handler(signal.SIGQUIT, uvicorn.quit)
        sweeping = loop.create_task(self._sweep(uvicorn))
        await uvicorn.serve(sockets=self.sockets)
        sweeping.cancel()
        if scheduler is not None:
            scheduler.close()
        if not uvicorn.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _sweep(self, uvicorn: Uvicorn) -> None:
        """Look once a second after the peers, the heartbeat and the master."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.notify()
            if self.ppid != os.getppid():
                self.log.info("the master is gone; this worker ends")
                uvicorn.should_exit = True
            now_s = asyncio.get_running_loop().time()
            for connection in list(uvicorn.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(now_s)
