"""What the main job needs to watch a server: the server as a process, traffic against it, and its log.

Standard library only, since it runs before anything is installed.
"""

import collections
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request

HOST = "127.0.0.1"
PREFERRED_PORT = 8000
PATIENCE_S = 120
_CLIENTS = 4
_REACH_S = 5

Answer = collections.namedtuple("Answer", "status sha256 version generation body")


class TourError(Exception):
    """A step did not do what it should."""


def free_address():
    """Port 8000 of this machine, or any free one where something listens there already."""
    for port in (PREFERRED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return "{}:{}".format(*probe.getsockname())
    raise TourError(f"no port of {HOST} is free")


def is_reachable(url):
    """Whether a URL answers within some seconds."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_REACH_S):
            return True
    except (OSError, ValueError):
        return False


def wait_for(attempt, what):
    """Call until the result is true; return it.

    Raises:
        TourError: It was not for two minutes.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            result = attempt()
        except (OSError, http.client.HTTPException):
            result = None
        if result:
            return result
        time.sleep(0.05)
    raise TourError(f"{what} did not come within {PATIENCE_S} s")


class Server:
    """gunicorn as a child process; a context manager that stops it.

    Args:
        argv: The command.
        address: Where it will listen, as `host:port`.
        settings: Variables to set.
        log: The file that its output goes to.
    """

    def __init__(self, argv, address, settings, log):
        self.address = address
        self.log = log
        self._argv = argv
        self._env = {**os.environ, **{name: str(value) for name, value in settings.items()}}

    def __enter__(self):
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self._argv, cwd=self.log.parent, env=self._env, stdout=log, stderr=log)
        try:
            wait_for(self._is_ready, "the server")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE_S)

    def _is_ready(self):
        if self._process.poll() is not None:
            raise TourError(f"the server ended:\n{self.log.read_text()}")
        return self.request("GET", "/readyz").status == 200

    def wait(self):
        """Until the server ends."""
        self._process.wait()

    def request(self, method, path, body=None):
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        try:
            return ask(connection, method, path, body)
        finally:
            connection.close()

    def post(self, path, value):
        """The answer to a JSON request, None unless it is 200."""
        answer = self.request("POST", path, value)
        return answer if answer.status == 200 else None

    def events(self, name):
        """The lines of the log about one event."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if json.loads(line).get("event") == name]


def ask(connection, method, path, value=None):
    """One request on an open connection."""
    body = None if value is None else json.dumps(value)
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    headers = response.headers
    return Answer(
        response.status,
        headers.get("X-Model-SHA256"),
        headers.get("X-Model-Version"),
        headers.get("X-Model-Generation"),
        response.read().decode(),
    )


class Traffic:
    """Clients that ask without a pause until the block ends.

    Args:
        server: Whom to ask.
        value: What to ask, as JSON.
    """

    def __init__(self, server, value):
        self._server, self._value = server, value
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._counts = collections.Counter()
        self._first_seen = {}
        self._failures = []
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(_CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self):
        connection = http.client.HTTPConnection(self._server.address, timeout=PATIENCE_S)
        while not self._stop.is_set():
            try:
                self._note(ask(connection, "POST", "/predict", self._value))
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                with self._lock:
                    self._failures.append(repr(error))
        connection.close()

    def _note(self, answer):
        with self._lock:
            if answer.status != 200:
                self._failures.append(f"HTTP {answer.status}: {answer.body}")
                return
            self._counts[answer.sha256] += 1
            self._first_seen.setdefault(answer.sha256, time.monotonic())

    def count(self, sha256):
        """How many answers a version gave."""
        with self._lock:
            return self._counts[sha256]

    def first_seen(self, sha256):
        """When a version first answered, on the monotonic clock."""
        with self._lock:
            return self._first_seen[sha256]

    def figures(self):
        """Requests answered and failed, answers by sha256."""
        with self._lock:
            answered = sum(self._counts.values())
            failures = sorted(set(self._failures))[:3]
            return {
                "answered": answered,
                "failed": len(self._failures),
                "failures": failures,
                "answers": dict(self._counts),
            }
