"""The load: wrk for the speed, and a slow client beside it that checks every answer it gets."""

from __future__ import annotations

import http.client
import json
import math
import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import models
import numpy
import torch
from catalog import Peer, Start

_TYPES = {"json": "application/json", "binary": "application/octet-stream"}
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
_CHECKS_PER_S = 10
_IDS = """local n = 0
request = function()
   n = n + 1
   wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", n, n)
   wrk.headers["X-Request-ID"] = string.format("%08x-0000-4000-8000-000000000000", n)
   return wrk.format()
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw.

    Units:
        `_ms` is milliseconds; `count` is requests.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    count: int
    failures: int
    checked: int
    wrong: int


class Dialect:
    """Writes requests of one peer in one format, and reads its answers.

    Args:
        peer: the server.
        model: the model's name.
        format: json or binary.
    """

    def __init__(self, peer: Peer, model: str, format: str) -> None:
        # As binary, with another trace and request id in each request.
        self.has_ids = format == "ids"
        format = "binary" if self.has_ids else format
        self.path, self._format, self._is_v2 = peer.paths[format], format, peer.is_v2
        self._shape = models.SHAPES[model]
        self.headers = {"Content-Type": _TYPES[format]}
        # V2's binary extension: JSON that describes the bytes behind it, in both directions.
        self._is_v2_binary = format == "binary" and self.path.startswith("/v2")
        if self._is_v2_binary:
            self._head = self._write_v2_head()
            self.headers = {"Inference-Header-Content-Length": str(len(self._head))}

    def body(self, row: numpy.ndarray) -> bytes:
        """Write a request of one row."""
        if self._format == "binary":
            return (self._head if self._is_v2_binary else b"") + row.tobytes()
        if not self._is_v2:
            return json.dumps({"inputs": [row.tolist()]}).encode()
        tensor = {"name": "inputs", "shape": [1, *self._shape], "datatype": "FP32", "data": row.ravel().tolist()}
        return json.dumps({"inputs": [tensor]}).encode()

    def _write_v2_head(self) -> bytes:
        tensor = {"name": "inputs", "shape": [1, *self._shape], "datatype": "FP32"}
        tensor["parameters"] = {"binary_data_size": 4 * math.prod(self._shape)}
        return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()

    def outputs(self, body: bytes, head_bytes: int) -> numpy.ndarray:
        """Read the numbers of an answer."""
        if self._is_v2_binary:
            return numpy.frombuffer(body[head_bytes:], "float32")
        if self._format == "binary":
            return numpy.frombuffer(body, "float32")
        answer = json.loads(body)["outputs"]
        return numpy.asarray(answer[0]["data"] if self._is_v2 else answer[0], "float32").ravel()


class Checker:
    """A client that sends rows of its own beside the load and compares the answers with the model's.

    Args:
        dialect: of the peer.
        model: the model's name.
        weights: where they lie.
    """

    def __init__(self, dialect: Dialect, model: str, weights: Path) -> None:
        self._dialect, module = dialect, models.load(model, str(weights))
        rows = torch.randn(8, *models.SHAPES[model], generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = [module(row[None]).numpy().ravel() for row in rows]
        self.bodies = [dialect.body(row.numpy()) for row in rows]
        self._expected = expected
        self.checked = self.wrong = 0

    def check(self, port: int, number: int, connection: http.client.HTTPConnection) -> None:
        """Send one request and look at its answer."""
        connection.request("POST", self._dialect.path, self.bodies[number % 8], self._dialect.headers)
        response = connection.getresponse()
        body = response.read()
        expected = self._expected[number % 8]
        self.checked += 1
        is_right = response.status == 200
        if is_right:
            found = self._dialect.outputs(body, int(response.headers.get("Inference-Header-Content-Length", 0)))
            is_right = found.shape == expected.shape and bool(numpy.allclose(found, expected, rtol=1e-3, atol=1e-4))
        if not is_right:
            self.wrong += 1
            print(f"wrong: {response.status} {body[:200]!r}, expected {expected[:4]}")

    def run(self, port: int, stopping: threading.Event) -> None:
        """Check until told to stop."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        number = 0
        while not stopping.wait(1 / _CHECKS_PER_S):
            self.check(port, number, connection)
            number += 1
        connection.close()


def is_ready(peer: Peer, start: Start) -> bool:
    """Ask a server for one prediction, on a connection of its own, so that each of its workers gets its turn."""
    dialect = Dialect(peer, start.model, next(iter(peer.paths)))
    connection = http.client.HTTPConnection("127.0.0.1", start.port, timeout=10)
    try:
        row = numpy.zeros(models.SHAPES[start.model], "float32")
        connection.request("POST", dialect.path, dialect.body(row), dialect.headers)
        return connection.getresponse().status == 200
    finally:
        connection.close()


def apply(peer: Peer, start: Start, format: str, connections: int, seconds: int) -> Load:
    """Load a running server for some seconds, and check answers meanwhile."""
    dialect, port = Dialect(peer, start.model, format), start.port
    checker = Checker(dialect, start.model, start.weights)
    body, script = start.directory / "body.bin", start.directory / "request.lua"
    body.write_bytes(checker.bodies[0])
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in dialect.headers.items())
    script.write_text(f'wrk.method = "POST"\nlocal f = io.open("{body}", "rb")\nwrk.body = f:read("*a")\n{headers}')
    if dialect.has_ids:
        script.write_text(script.read_text() + _IDS)
    first = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for number in range(8):
        checker.check(port, number, first)
    first.close()
    stopping = threading.Event()
    beside = threading.Thread(target=checker.run, args=(port, stopping))
    beside.start()
    time.sleep(0.1)
    try:
        wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency", "-s", str(script)]
        done = subprocess.run(
            [*wrk, f"http://127.0.0.1:{port}{dialect.path}"], capture_output=True, text=True, check=True
        )
    finally:
        stopping.set()
        beside.join()
    return _parse(done.stdout, checker)


def _parse(text: str, checker: Checker) -> Load:
    def time_ms(percent: str) -> float:
        number, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s|m)\b", text).groups()
        return float(number) * _UNITS_MS[unit]

    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failures = sum(map(int, errors.groups())) if errors else 0
    return Load(
        requests_per_s=float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)),
        p50_ms=time_ms("50"),
        p99_ms=time_ms("99"),
        count=int(re.search(r"(\d+) requests in", text).group(1)),
        failures=failures + (int(refused.group(1)) if refused else 0),
        checked=checker.checked,
        wrong=checker.wrong,
    )
