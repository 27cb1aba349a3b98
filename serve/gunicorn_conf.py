"""The gunicorn configuration: `gunicorn -c python:serve.gunicorn_conf serve.wsgi:app`.

Gunicorn imports this in the master and reads its names, so this module reads the settings when it is imported, once for
all workers to come. It imports no torch, and neither does anything that it imports: a master that has used torch's
threads hangs its forked workers (pytorch#49555)."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from serve.checkpoint.provenance import START_VARIABLE
from serve.errors import Issue, SettingsError, describe
from serve.http.drain import Drain, find_server
from serve.http.thread_pool import current_ticket
from serve.metrics import multiprocess_directory
from serve.settings.settings import ServerSettings, load_settings
from serve.workers.balance import Neighbours
from serve.workers.process_lifecycle import Handover, ProcessExit

_KNOWN_ERROR = 3
_FAST = ("a2wsgi", "httptools", "uvicorn", "uvicorn_worker")  # what brings an event loop: the extra `fast`


def _read_settings(missing: list[str]) -> ServerSettings:
    """Read the settings, or exit; `missing` are the packages without which there is no event loop."""
    try:
        found = load_settings(os.environ, Path.cwd())
        if found.worker == "asgi" and missing:
            needs = Issue("worker", f"asgi needs {', '.join(missing)}", "pip install 'envserve[fast]'")
            raise SettingsError([needs])
        return found
    except SettingsError as error:
        sys.stderr.write(describe(error) + "\n")
        raise SystemExit(_KNOWN_ERROR) from None


_missing = [name for name in _FAST if importlib.util.find_spec(name) is None]
served = _read_settings(_missing)
leaving = ProcessExit()
drain = Drain()
handover = Handover()
# By which workers give connections to each other; made where it can help: not for one worker, nor for threads.
_NEIGHBOURS: list[Neighbours] = []
_FORGET: list[Any] = []  # what is done about a worker that has ended, once the master is ready for it

# The directory in which the workers share their counts. Made here, because prometheus_client looks for it when it is
# imported, and gunicorn imports the worker's class, which brings it, before it calls any hook.
multiprocess_directory.make(os.environ)

bind = served.bind
workers = served.workers
threads = served.threads
_THREADS, _LOOP = "serve.workers.thread_worker.Worker", "serve.workers.event_loop_worker.AsgiWorker"
worker_class = _THREADS if served.worker == "gthread" or _missing else _LOOP
# Longer than the idle time of common clients and proxies, so that it is they who close: a connection that the server
# closes just when a request arrives is a failed request.
keepalive = 75
timeout = 120  # importing torch and reading a pickle hold the interpreter lock for seconds
graceful_timeout = 30
# The heartbeat file: on a disk its sync can stall a worker long enough to be taken for dead.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - gunicorn makes a private file
control_socket_disable = True  # one socket in the home directory would be shared by every server of a user


def on_starting(server: Any) -> None:
    """Get ready for the death of workers, and for the connections that they give to each other."""
    # Not when a worker has died, because gunicorn tells of that from a signal handler, which may interrupt the import
    # and begin it again.
    from serve.metrics import metric_families

    os.environ[START_VARIABLE] = uuid.uuid4().hex
    _FORGET.append(metric_families.forget)
    if served.balance == "on" and server.cfg.workers > 1 and hasattr(server.cfg.worker_class, "place"):
        _NEIGHBOURS.append(Neighbours(2 * server.cfg.workers + 2))  # at a reload there are two sets


def when_ready(server: Any) -> None:
    """Put the drop of readiness before the end, and report which worker serves where it is not the fast one."""
    if served.worker == "auto" and _missing:
        server.log.info("worker: gthread, as %s is missing; the extra fast brings it", ", ".join(_missing))
    if served.balance == "on" and not _NEIGHBOURS and server.cfg.workers > 1:
        server.log.info("balance: off; with these workers a connection stays with the worker that accepted it")
    end: Any = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, drain.precede(end, served.drain_delay_s))


def pre_fork(server: Any, worker: Any) -> None:
    """Give a new worker its place among the others."""
    for neighbours in _NEIGHBOURS:
        place = neighbours.choose([other.place[1] for other in server.WORKERS.values() if other.place])
        worker.place = None if place is None else (neighbours, place)


def on_reload(server: Any) -> None:
    """Keep the old workers until the new ones take requests."""
    handover.hold(server)


def post_worker_init(worker: Any) -> None:
    """Start the reloaders of a new worker, and let it become live before it takes requests."""
    served_here = find_server(getattr(worker, "wsgi", None))
    if served_here is None:
        worker.log.warning("not an application of serve: call its server's start() in a post_worker_init of your own")
        return

    def is_wanted() -> bool:
        worker.notify()
        return bool(worker.alive)

    served_here.start(lambda: getattr(worker, "queued", 0))
    can_answer = served_here.wait_until_booted(is_wanted)
    if not can_answer:
        handover.say(can_answer)
        handover.wait(is_wanted)
        served_here.wait_while_spared(is_wanted)
    elif hasattr(worker, "on_taking"):
        worker.on_taking = lambda: handover.say(True)
    else:
        handover.say(True)


def pre_request(worker: Any, request: Any) -> None:
    """Close a connection after its answer, so that none is sent into, where the client asks or the server ends."""
    ticket = current_ticket()
    if ticket is not None:
        ticket.request = request
    # Gunicorn alone knows `close` only as the whole of the first such field.
    stated_connection = ",".join(value for name, value in request.headers if name == "CONNECTION").lower()
    if drain.has_begun or "close" in map(str.strip, stated_connection.split(",")):
        request.force_close()
    stated = dict(request.headers)
    if stated.get("CONTENT-LENGTH", "").isdigit() and int(stated["CONTENT-LENGTH"]) > served.max_body_bytes:
        # It is answered 413 before it is sent. Gunicorn says `100 Continue` by one or the other of these.
        request.headers = [field for field in request.headers if field[0] != "EXPECT"]
        request._expected_100_continue = False


def child_exit(server: Any, worker: Any) -> None:
    """Drop the gauges of a worker that has ended, and hand on the connections that were on their way to it."""
    for forget in _FORGET:
        forget(worker.pid)
    if getattr(worker, "place", None) is not None:
        worker.place[0].clear(worker.place[1])


def on_exit(server: Any) -> None:
    """Remove the directory in which the workers shared their counts."""
    multiprocess_directory.remove(os.environ)


def worker_exit(server: Any, worker: Any) -> None:
    """Stop the reloaders of a worker that ends, and let its process end without taking the interpreter apart."""
    served_here = find_server(getattr(worker, "wsgi", None))
    if served_here is None:
        return
    served_here.stop()
    leaving.prepare()
