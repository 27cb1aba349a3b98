"""A service of real gunicorn in a directory of releases, and clients that never pause."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from envtool.lockfile.conda_lock_v1 import LockedPackage, format_lockfile
from envtool.templates import find_kind, render
from tests.functional.deploy.conftest import run_envtool
from tests.functional.prefix.conftest import User
from tests.support.archives import Archive, File, lock_of, locked

ROOT = Path(__file__).parents[3]
PATIENCE_S = 120
# Enough to meet every moment of a hand-over, and not so much that the clients take the machine for themselves.
_PAUSE_S = 0.01

# The interpreter of a release is this one, started by a file of the release: everything but its speed is as with a
# whole Python, which would take ten seconds a release to make.
PYTHON = f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n'
GUNICORN = "from gunicorn.app.wsgiapp import run\nrun()\n"
APP = """\
import os
import signal
from pathlib import Path

CODE = "VERSION"
prefix = Path(os.environ["CONDA_PREFIX"])
settings = Path(os.environ["SERVE_CONFIG"])
word = (prefix / "share/word").read_text()
if (prefix / "share/broken").exists():
    raise RuntimeError("this release is broken")
is_trial = "trial" in os.environ["ENVSERVE_RUN"]
if (prefix / "share/dies").exists() or (prefix / "share/dies-later").exists() and not is_trial:
    os.kill(os.getpid(), signal.SIGKILL)


def app(environ, start_response):
    # Read again in each answer: a release must not see the files of another one.
    later = (prefix / "share/word").read_text()
    is_ill = (prefix / "share/ill").exists() and not is_trial
    # Each of these is read at another time, and from another file.
    stated = settings.read_text().split()[-1]
    body = f"{word} {later} {os.environ['ENVSERVE_ENV_DIGEST']} {CODE} {stated}".encode()
    status = "503 Service Unavailable" if is_ill and environ["PATH_INFO"] == "/readyz" else "200 OK"
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]
"""


def release(directory: Path, word: str, *marks: str, python: str = PYTHON) -> LockedPackage:
    """A package that is a whole release, in which `word` tells it from others; a mark makes it a bad one."""
    files = {
        "bin/python": File(python.encode(), 0o755),
        "bin/gunicorn": File(GUNICORN.encode(), 0o755),
        "share/word": File(word.encode()),
        **{f"share/{mark}": File() for mark in marks},
    }
    return locked(Archive("release", files, version=word).write(directory))


class Service:
    """A directory of releases and the server that runs from it."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.root = user.home / "srv"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = user.home / "server.log"
        self.app = "word_app:app"
        (self.root / "app").mkdir(parents=True)
        self.write_app("c0")
        self.env = {
            "SERVE_MODEL": "none:None", "SERVE_CHECKPOINTS": str(self.root / "checkpoints"),
            "SERVE_BIND": "127.0.0.1:0", "SERVE_WORKERS": "2",
        }  # fmt: skip

    def write_app(self, version: str) -> None:
        """Change the code and the settings of the application, in place."""
        for name, text in (("word_app.py", APP.replace("VERSION", version)), ("serve.toml", f"# {version}")):
            (self.root / "app" / name).write_text(text)

    def lock(self, *packages: LockedPackage) -> Path:
        path = self.user.home / "conda-lock.yml"
        path.write_text(format_lockfile(lock_of(*packages)))
        return path

    def envtool(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        return run_envtool(self.user, self.user.home, "deploy", *arguments, code=code, **self.env)

    def apply(self, word: str, *marks: str, code: int = 0, options: Sequence[str] = ()) -> dict[str, Any]:
        lock = self.lock(release(self.user.home / "channel", word, *marks))
        arguments = ("apply", self.root, "-f", lock, "--app", self.app, "--json", *options)
        out, err = self.envtool(*arguments, code=code)
        return json.loads(out) if out else {"error": err}

    def status(self, code: int = 0) -> dict[str, Any]:
        return json.loads(self.envtool("status", self.root, "--json", code=code)[0])

    def start(self) -> int:
        """Start the server; returns its port."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.root / "start"], env={**self.user.env, **self.env}, stdout=log, stderr=log, start_new_session=True
            )
        found = wait_for(lambda: re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", self.log.read_text()))
        wait_for(lambda: self.status_or_none())
        return int(found[1])

    def status_or_none(self) -> dict[str, Any] | None:
        with contextlib.suppress(AssertionError):
            return self.status()
        return None

    def end(self) -> None:
        """End every process of the service, whoever started it."""
        from envtool.deploy import gunicorn_masters

        for run in (self.root / "run", self.root / "run/trial"):
            for master in gunicorn_masters.masters(run):
                gunicorn_masters.stop(master.pid, 30)
        if self.process is not None:
            self.process.wait()
            print(self.log.read_text()[-8000:])  # shown when the test failed


class Load:
    """Clients that ask without a pause until the block ends: some keep their connection, some take a new one each."""

    def __init__(self, port: int, keeping: int = 2, fresh: int = 2) -> None:
        self.port = port
        self.answers: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        kinds = [True] * keeping + [False] * fresh
        self._threads = [threading.Thread(target=self._ask_on, args=(kind,)) for kind in kinds]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, keeps: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        while not self._stop.is_set():
            try:
                connection.request("POST", "/predict", b"x" * 100)
                answer = connection.getresponse()
                text = answer.read().decode()
                with self._lock:
                    words = text.split()
                    self.answers[words[0]] += 1
                    self.versions[words[-1]] += 1
                    if answer.status != 200 or words[0] != words[1] or words[3:4] != words[4:]:
                        self.failures.append(f"{answer.status} {text}")
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    self.failures.append(f"{'kept' if keeps else 'fresh'}: {error!r}")
                connection.close()
            if not keeps:
                connection.close()
            time.sleep(_PAUSE_S)
        connection.close()

    def wait_for(self, word: str, count: int = 20) -> None:
        wait_for(lambda: self.answers[word] >= count)


@contextlib.contextmanager
def nginx(directory: Path, port: int) -> Iterator[int]:
    """The rendered site in front of a gunicorn, until the block ends; gives its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    directory.mkdir()
    template = find_kind("nginx")
    values = {"bind": f"127.0.0.1:{port}", "listen": f"127.0.0.1:{own}"}
    (directory / "site.conf").write_text(render(template, values))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    (directory / "nginx.conf").write_text(
        f"daemon off;\npid {directory}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{ access_log off; {paths} include {directory}/site.conf; }}\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["nginx", "-p", directory, "-c", directory / "nginx.conf"], stderr=log)
    try:
        wait_for(lambda: (directory / "pid").exists() and (directory / "pid").read_text())
        yield own
    finally:
        process.terminate()
        process.wait()
        print((directory / "log").read_text()[-3000:])  # shown when the test failed


def wait_for(attempt: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = attempt()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
