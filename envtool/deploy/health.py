"""The health of a release: a question to its server, and a trial before traffic reaches it."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
from collections.abc import Mapping

from envtool.deploy import gunicorn_masters
from envtool.deploy.gunicorn_masters import Master
from envtool.deploy.release_directory import ReleaseDirectory
from envtool.errors import DeployError
from envtool.subprocesses import Background

_LIMIT_S = 10.0


class _Connection(http.client.HTTPConnection):
    """A connection to an address of gunicorn: `host:port`, or `unix:` and a path."""

    def __init__(self, address: str) -> None:
        super().__init__("localhost", timeout=_LIMIT_S)
        self._address = address

    def connect(self) -> None:
        if self._address.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(_LIMIT_S)
            self.sock.connect(self._address[len("unix:") :])
            return
        host, _, port = self._address.rpartition(":")
        # A server that listens on every address is asked on this machine's own.
        host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - compared, not bound
        self.sock = socket.create_connection((host, int(port)), _LIMIT_S)


def ask(address: str, path: str) -> str | None:
    """What is wrong with a server; None when it answers 200."""
    connection = _Connection(address)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        text = response.read(500).decode(errors="replace").strip()
        return None if response.status == 200 else f"GET {path} gives HTTP {response.status}: {text}"
    except (OSError, http.client.HTTPException) as error:
        return f"GET {path} gives no answer: {error or type(error).__name__}"
    finally:
        connection.close()


_STOP_S = 30.0
_SHOWN_CHARACTERS = 3000
# What belongs to the process that it was taken from, and not to the service.
_OTHERS = ("GUNICORN_PID", "GUNICORN_FD", "LISTEN_PID", "LISTEN_FDS", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def try_out(root: ReleaseDirectory, digest: str, serving: Master | None, limit_s: float, path: str) -> None:
    """Start one worker of a release and ask whether it is well. Raises DeployError if it is not; with the end of its
    log."""
    shutil.rmtree(root.trial, ignore_errors=True)
    root.trial.mkdir(parents=True)
    address = f"unix:{root.trial}/socket"
    argv = [str(root.start), "--bind", address, "--workers", "1"]
    log = root.trial / "log"
    server = Background(argv, environment(root, digest, serving), root.path, log)
    trouble: list[str | None] = ["no answer"]

    def end() -> str | None:
        # Gunicorn starts a worker again that was killed, for ever; of a trial that is well, none ends.
        has_worker_ended = gunicorn_masters.ended_workers(root.trial, server.pid) > 0
        return "its worker ended" if has_worker_ended else None if server.is_running() else "it ended"

    def is_over() -> bool:
        if gunicorn_masters.ready_workers(root.trial, server.pid):
            trouble[0] = ask(address, path)
        return trouble[0] is None or end() is not None

    try:
        gunicorn_masters.wait_until(is_over, limit_s)
        if trouble[0] is not None:
            what = end() or f"after {limit_s:g} s: {trouble[0]}"
            said = log.read_text(encoding="utf-8", errors="replace")[-_SHOWN_CHARACTERS:].rstrip()
            hint = "nothing was changed: the service is as it was"
            raise DeployError(f"release {digest} failed its health check, {what}\n{said}", hint)
    finally:
        server.stop(_STOP_S)
        shutil.rmtree(root.trial, ignore_errors=True)


def environment(root: ReleaseDirectory, digest: str, serving: Master | None) -> Mapping[str, str]:
    """The environment of a trial: that of the service where it runs, else the caller's own."""
    found = dict(os.environ if serving is None else serving.environ)
    for name in _OTHERS:
        found.pop(name, None)
    return {**found, "ENVSERVE_RELEASE": str(root.directory(digest)), "ENVSERVE_RUN": str(root.trial)}
