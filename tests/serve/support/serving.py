"""Real gunicorn with real workers, a client, and a load of requests."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from warm import INTERPRETER

ROOT = Path(__file__).resolve().parents[3]
SUPPORT = Path(__file__).parent
# Starting two interpreters that import torch takes long on a machine that does other work too.
PATIENCE_S = 90
HAS_FAST = all(importlib.util.find_spec(name) for name in ("a2wsgi", "httptools", "uvicorn", "uvicorn_worker"))


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    sent_s: float = 0.0
    received_s: float = 0.0

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def sha256(self) -> str:
        return self.headers["x-model-sha256"]

    @property
    def generation(self) -> int:
        return int(self.headers["x-model-generation"])


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.connection = http.client.HTTPConnection(address, port, timeout=60)

    def request(self, method: str, path: str, body: bytes | None = None, headers=None) -> Reply:
        sent_s = time.monotonic()
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        headers = {k.lower(): v for k, v in response.getheaders()}
        return Reply(response.status, headers, response.read(), sent_s, time.monotonic())

    def predict(self, inputs) -> Reply:
        return self.request("POST", "/predict", json.dumps({"inputs": inputs}).encode())

    def close(self) -> None:
        self.connection.close()


class Server:
    """`gunicorn -c python:serve.gunicorn_conf serve.wsgi:app` on a free port of the loopback.

    Args:
        settings: those of the server, and two of the test: `prefix`, what runs the command line, and `is_fresh`,
            whether its interpreter is started and not forked from one that has imported torch.
    """

    def __init__(self, directory: Path, checkpoints: Path, settings: dict[str, object]) -> None:
        prefix = list(settings.pop("prefix", ()))
        is_fresh = bool(settings.pop("is_fresh", prefix))
        values = {
            "model": "affine:Affine",
            "name": "affine",
            "python_path": SUPPORT,
            "checkpoints": checkpoints,
            "store": directory / "store",
            "bind": "127.0.0.1:0",
            "poll_s": 0.2,
            **settings,
        }
        values = {key: value for key, value in values.items() if value is not None}
        environ = {key: value for key, value in os.environ.items() if not key.startswith("SERVE_")}
        environ.update({f"SERVE_{key.upper()}": str(value) for key, value in values.items()})
        environ.update(PYTHONPATH=str(ROOT), ENVSERVE_ENV_DIGEST="sha256:0123")
        self._log_path = directory / f"server-{time.monotonic_ns()}.log"
        command = ["gunicorn", "-c", "python:serve.gunicorn_conf", "serve.wsgi:app"]
        if is_fresh:
            argv = [*prefix, sys.executable, "-m", *command]
            with self._log_path.open("wb") as log:
                self.process = subprocess.Popen(argv, cwd=directory, env=environ, stdout=log, stderr=log)
        else:
            self._log_path.touch()
            self.process = INTERPRETER.start(command, directory, environ, self._log_path)
        # With reuse_port each worker listens for itself, and gunicorn names no address.
        self._address, _, stated_port = str(values["bind"]).rpartition(":")
        stated = int(stated_port)
        self.port = stated or int(self.wait_for_text(r"Listening at: https?://127\.0\.0\.1:(\d+)"))

    @property
    def text(self) -> str:
        return self._log_path.read_text()

    def events(self, kind: str | None = None) -> list[dict]:
        """Return the structured log lines, all or of one kind."""
        lines = [json.loads(line) for line in self.text.splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if kind in (None, line["event"])]

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def client(self) -> Client:
        return Client(self.port, self._address)

    def get(self, path: str) -> Reply:
        client = self.client()
        try:
            return client.request("GET", path)
        finally:
            client.close()

    def wait_for_text(self, pattern: str) -> str:
        """Wait until the log holds a text, and return its first group."""

        def find():
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.text}")
            return re.search(pattern, self.text)

        return wait_until(find, f"{pattern!r} in the log", lambda: self.text).group(1)

    def wait_for_events(self, kind: str, count: int, **facts) -> list[dict]:
        """Wait until so many workers have logged an event with these facts."""

        def find():
            found = [line for line in self.events(kind) if all(line.get(key) == facts[key] for key in facts)]
            return found if len(found) >= count else None

        return wait_until(find, f"{count} of {kind} {facts}", lambda: self.text)

    def wait_live(self, generation: int, workers: int = 2) -> None:
        """Wait until this many workers have a generation live."""

        def find():
            moved = [line for line in self.events() if line["event"] in ("swapped", "restored")]
            return len({line["worker"] for line in moved if line["generation"] == generation}) >= workers

        wait_until(find, f"generation {generation} in {workers} workers", lambda: self.text)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def wait_until(find, what: str, explain=lambda: ""):
    """Return the first true result of `find`."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        result = find()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE_S} s in vain for {what}\n{explain()}")


@dataclass
class Load:
    """Requests that flow from several threads until they are told to stop.

    Even threads keep their connection, odd ones make a new one for each request.
    """

    server: Server
    row: list[float]
    threads: int = 6
    replies: list[list[Reply]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self):
        self._stopping = threading.Event()
        self.replies = [[] for _ in range(self.threads)]
        self._threads = [threading.Thread(target=self._send, args=(index,)) for index in range(self.threads)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more answers have come."""
        goal = self.count + count
        wait_until(lambda: self.count >= goal or self.failures, f"{count} more answers")

    def wait_for_generation(self, generation: int) -> None:
        """Wait until some answer comes from a generation, or a later one."""
        wait_until(
            lambda: any(replies and replies[-1].generation >= generation for replies in self.replies) or self.failures,
            f"an answer of generation {generation}",
            lambda: self.server.text,
        )

    def all(self) -> list[Reply]:
        """Return all answers, in the order in which they came."""
        return sorted((reply for replies in self.replies for reply in replies), key=lambda reply: reply.received_s)

    @property
    def count(self) -> int:
        return sum(len(replies) for replies in self.replies)

    def _send(self, index: int) -> None:
        client = self.server.client()
        while not self._stopping.is_set():
            try:
                self.replies[index].append(client.predict([self.row]))
            except OSError as error:
                self.failures.append(repr(error))
                client.close()
            except http.client.HTTPException as error:
                self.failures.append(repr(error))
                client.close()
            if index % 2:
                client.close()
        client.close()


class Requests(Load):
    """Like `Load`, with rows that differ, so that a model of one class is seen."""

    def _send(self, index):
        client, count = self.server.client(), 0
        while not self._stopping.is_set():
            count += 1
            row = [self.row[0], float(index), float(count % 1000), 2.0]
            try:
                self.replies[index].append(client.predict([row]))
            except (OSError, http.client.HTTPException) as error:  # its worker was killed
                self.failures.append(repr(error))
                client.close()
        client.close()


def ask_at_once(server, rows):
    """Ask for each row on a connection of its own, all at the same time."""
    replies = {}

    def ask(index):
        replies[index] = server.client().predict([rows[index]])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [replies[index] for index in range(len(rows))]


def find_steps_back(replies: list[Reply]) -> list[tuple[int, int]]:
    """Find requests that began after an answer of a later generation had come, on whatever connection.

    Whoever has got an answer of a generation knows that it was committed; no request that starts after that may be
    answered by an earlier one.

    Args:
        replies: in the order in which they came.
    """
    steps, latest, index = [], 0, 0
    for reply in sorted(replies, key=lambda reply: reply.sent_s):
        while index < len(replies) and replies[index].received_s < reply.sent_s:
            latest = max(latest, replies[index].generation)
            index += 1
        if reply.generation < latest:
            steps.append((latest, reply.generation))
    return steps


def assert_answers(load: Load, trainer, failures: int = 0) -> None:
    """Every request was answered, exactly as the checkpoint named in its header answers, and none went back."""
    assert len(load.failures) <= failures, load.failures
    replies = load.all()
    for reply in replies:
        assert reply.status == 200, (reply, load.server.text)
        assert reply.json["outputs"] == [trainer.expected(reply.sha256, load.row)]
    assert find_steps_back(replies) == []
