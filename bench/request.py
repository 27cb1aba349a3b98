"""What one binary V2 request costs in the worker's own code, in processor time and without a socket.

    python bench/request.py                     shortest times of many rounds, step by step
    python bench/request.py --profile           and what Python calls in them

The real protocol class, application, dispatcher and model; only the transport is a list. Processor time of one thread,
the shortest of many rounds, hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "peers")]
_COLUMNS = 10


class Transport(asyncio.Transport):
    """Keeps nothing of what is written but the last bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = b""

    def get_extra_info(self, name, default=None):
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: bytes) -> None:
        self.last = data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        raise RuntimeError(f"closed after {self.last[:300]!r}")


def request_bytes(columns: int) -> bytes:
    """One row as wrk sends it."""
    tensor = {"name": "inputs", "shape": [1, columns], "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": 4 * columns}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = head + bytes(4 * columns)
    lines = [
        "POST /v2/models/model/infer HTTP/1.1",
        "Host: 127.0.0.1:8000",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def start(directory: Path):
    """A server of one worker with the linear model, live."""
    import models

    from serve.gateway.server import Server
    from serve.settings.settings import load_settings

    models.write(directory)
    for name in ("mlp", "cnn"):
        (directory / f"{name}.safetensors").unlink()
    (directory / "tiny.safetensors.done").touch()
    settings = {
        "SERVE_MODEL": "models:Tiny",
        "SERVE_NAME": "model",
        "SERVE_CHECKPOINTS": str(directory),
        "SERVE_STORE": str(directory / "store"),
        "SERVE_PYTHON_PATH": str(HERE / "peers"),
        "SERVE_WORKERS": "1",
    }
    from serve.metrics import multiprocess_directory as metrics

    metrics.make(os.environ)
    server = Server(load_settings(settings, directory))
    server.start()
    server.wait_until_booted(lambda: True)
    instance = next(server.instances)
    while instance.slot.live is None:
        time.sleep(0.05)
    return server


def connect(server, count: int) -> list:
    """That many connections of a server, in the loop that runs."""
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from serve.batching.scheduler import Scheduler
    from serve.gateway.asgi_app import AsgiApp
    from serve.workers.connection import WorkerConnection
    from serve.workers.http_protocol import SoleConnection
    from serve.workers.request_head import Bounds, HeaderCache

    loop = asyncio.get_running_loop()
    app = AsgiApp(server, None, Scheduler(loop, server.telemetry.worker_metrics.request_counters.batch))
    config = Config(app=lambda: None, log_config=None)
    config.load()
    state = ServerState()
    bounds = Bounds(4094, 100, 16384, 30.0)
    shared = {"heads": HeaderCache(app.table, app.limit_bytes, bounds), "sole_connection": SoleConnection()}
    found = []
    for _ in range(count):
        each = WorkerConnection(config=config, server_state=state, app_state={}, app=app, bounds=bounds, **shared)
        each.access_log = False
        each.connection_made(Transport())
        found.append(each)
    return found


async def serve(server, options) -> None:
    """Send batches to the protocol, and print what they cost."""
    found = connect(server, options.connections)
    request = request_bytes(_COLUMNS)

    async def turn() -> None:
        for each in found:
            each.data_received(request)
        for each in found:
            while not each.transport.last:
                await asyncio.sleep(0)

    await turn()
    assert found[0].transport.last.startswith(b"HTTP/1.1 200"), found[0].transport.last
    print(f"{found[0].transport.last!r}", file=sys.stderr)
    best_s = await _shortest(turn, found, options.rounds)
    live = next(server.instances).slot.live.predictor
    model_s = _model_s(live, options.connections, options.rounds)
    per_us = 1e6 / options.connections
    print(
        f"{options.connections} connections: {best_s * per_us:.1f} µs for each request, of which the model "
        f"{model_s * per_us:.1f} µs; outside it {(best_s - model_s) * per_us:.1f} µs"
    )
    if options.profile:
        profile = cProfile.Profile()
        profile.enable()
        await _shortest(turn, found, options.rounds)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)


async def _shortest(turn, connections, rounds: int) -> float:
    best_s = 1e9
    for _ in range(rounds):
        for connection in connections:
            connection.transport.last = b""
        began_s = time.thread_time()
        await turn()
        best_s = min(best_s, time.thread_time() - began_s)
    return best_s


def _model_s(predictor, rows: int, rounds: int) -> float:
    import numpy

    taken = numpy.zeros((rows, _COLUMNS), "float32")
    best_s = 1e9
    for _ in range(rounds):
        began_s = time.thread_time()
        predictor.run(taken)
        best_s = min(best_s, time.thread_time() - began_s)
    return best_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    import uvloop

    with tempfile.TemporaryDirectory() as directory:
        server = start(Path(directory))
        try:
            uvloop.new_event_loop().run_until_complete(serve(server, options))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
