"""The application for Ray Serve: `serve run serve.ray_app:application settings=serve.toml`, of Ray's command `serve`.

Ray places the replicas, starts them anew, scales them and brings requests to them; each has the routes, metrics and
status of a worker of gunicorn. The replicas that share a store are the workers of one host, and all hosts move as one:
by `commit = "fleet"`, which is the default here, over an actor of Ray (`serve.fleet.ray_keys`) or over etcd.

A replica takes no requests before it can answer as all others do; one that the fleet refuses fails to start, with the
reason."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, ClassVar

from serve.errors import FleetError, Issue, SettingsError
from serve.fleet.carriers import connect
from serve.fleet.keys import Transaction
from serve.fleet.memory_keys import REPLICAS
from serve.fleet.ray_keys import HINT
from serve.metrics import multiprocess_directory
from serve.settings.settings import CONFIG_VARIABLE, load_settings, read_file

try:
    from ray import get_runtime_context, serve
except ImportError as error:
    raise FleetError(f"ray.serve cannot be imported: {error}", HINT) from error

_AGAIN_S = 0.05
_SWITCH_INTERVAL_S = 0.0005
# More than Ray's default of 5: what waits shares runs. The rest is Ray's.
_OPTIONS = {"max_ongoing_requests": 100}


def application(arguments: Mapping[str, Any]) -> serve.Application:
    """Return the application.

    Args:
        arguments: `settings`: the path of a `serve.toml` or its content as a table; default: as for gunicorn. All
            others are options of the deployment, for example `num_replicas`.

    Raises:
        SettingsError: the settings cannot be used. Each node reads its own `SERVE_` variables beside them.
    """
    options = {**_OPTIONS, **arguments}
    stated, directory, here = options.pop("settings", None), Path.cwd(), {"commit": "fleet", "python_path": ["."]}
    issues: list[Issue] = []
    if not isinstance(stated, Mapping):
        path, stated = read_file(os.environ if stated is None else {CONFIG_VARIABLE: stated}, directory, issues)
        directory = path.absolute().parent
    if issues:
        raise SettingsError(issues)
    keys = {**here, **stated}
    load_settings(os.environ, directory, keys)
    counts = {key: int(value) for key, value in options.items() if isinstance(value, str) and value.isdigit()}
    deployment = serve.deployment(Replica, name="envserve", **{**options, **counts})
    return deployment.bind(str(directory), keys)


class _Asgi:
    """What Ray hands requests to, in its loop."""

    # Ray asks for it when the replica is made. Not a variable of this file: until Ray 2.51 a replica has the code below
    # by value, with variables of its own.
    of_this_process: ClassVar[_Asgi]

    def __init__(self, app: Any, server: Any) -> None:
        self._app, self._server = app, server
        self.waiting: Callable[[], int] = lambda: 0  # how many predictions wait for their model

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, or see to the end of the replica."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await asyncio.get_running_loop().run_in_executor(None, self._server.stop)
            await send({"type": "lifespan.shutdown.complete"})
            return
        root = scope.get("root_path", "")
        if root and scope["path"].startswith(root):  # `route_prefix` of the application
            scope = {**scope, "root_path": "", "path": scope["path"][len(root) :] or "/"}
        await self._inner(scope, receive, send)

    @functools.cached_property
    def _inner(self) -> Any:
        from a2wsgi import WSGIMiddleware

        from serve.batching.scheduler import Scheduler
        from serve.gateway.asgi_app import AsgiApp

        batch = self._server.telemetry.worker_metrics.request_counters.batch
        scheduler = Scheduler(asyncio.get_running_loop(), batch)
        self.waiting = lambda: scheduler.waiting
        return AsgiApp(self._server, WSGIMiddleware(self._app, workers=self._server.settings.threads), scheduler)

    def add_exception_handler(self, *_: Any) -> None:
        """Ray 2.51 calls it for what it raises itself when a replica has too much to do."""


def _build() -> _Asgi:
    return _Asgi.of_this_process


@serve.ingress(_build)
class Replica:
    """One worker, which Ray starts; Ray finds its code by name."""

    def __init__(self, directory: str, keys: Mapping[str, Any]) -> None:
        settings = load_settings(os.environ, Path(directory), keys)
        multiprocess_directory.join(os.environ, next(iter(settings.by_name.values())).store / "metrics")
        # Not above: it brings prometheus_client, which reads the variable when it is imported.
        from serve.gateway.flask_app import create_app
        from serve.http.drain import find_server

        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        until_s = time.monotonic() + settings.boot_wait_s
        for one in settings.by_name.values():
            if one.commit == "fleet" and one.fleet.startswith("ray:"):
                _register(one.fleet_host or os.uname().nodename, connect(one), until_s)
        app = create_app(settings)
        self._server = find_server(app)
        asgi = _Asgi.of_this_process = _Asgi(app, self._server)
        self._server.start(lambda: asgi.waiting())
        self._server.wait_until_booted(lambda: True)
        # Wait until the fleet has taken this host in; raises `FleetError`, with the reason why not.
        for instance in self._server.instances:
            committer, reason = instance.committer, ""
            while committer is not None:
                try:
                    # Also where its host is in: others of that host may be older, and have other settings.
                    reason = committer.find_refusal()
                except FleetError as error:
                    reason = error.message
                if not reason and not instance.is_cut_off:
                    break
                if time.monotonic() > until_s:
                    self._server.stop()
                    raise FleetError(f"the fleet has not taken this host in: {reason or committer.reason}")
                time.sleep(_AGAIN_S)

    def check_health(self) -> None:
        """Tell Ray whether the process is worth keeping; raises `FleetError`."""
        dead = [instance for instance in self._server.instances if not instance.is_reloading]
        if dead:
            raise FleetError(f"the reloader is not running: {dead[0].reloader.status.verdict}")


def _register(host: str, keys: Any, until_s: float) -> None:
    """Make the replica known, before it can answer anything, so that its death is not the death of its host."""
    actor = get_runtime_context().get_actor_name()
    while True:
        try:
            keys.commit(Transaction(puts={f"{REPLICAS}{host}/{actor}": ""}))
            return
        except FleetError:  # the keeper is being made, or made anew
            if time.monotonic() > until_s:
                raise
            time.sleep(_AGAIN_S)
