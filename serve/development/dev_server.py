"""A server for the time in which a model is written: new weights and new code are served as soon as they are saved."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Callable

from serve.development.check import Prepared, prepare
from serve.development.target import Target
from serve.errors import ServeError, describe
from serve.publishing.publish import publish

_LOOK_S, _READY_S, _END_S = 0.4, 120.0, 30.0
_QUIET = frozenset({"watching", "prepared", "retired"})
_SETTINGS = {"SERVE_WORKERS": "1", "SERVE_POLL_S": "0.3", "SERVE_CHANGED_INTERFACE": "allow"}
Show = Callable[[str], None]
_Stamp = tuple[int, int]


class DevServer:
    """Gunicorn with one model, its weights and code watched; without `weights`, those that the class begins with."""

    def __init__(self, target: Target, weights: Path | None, bind: str, show: Show) -> None:
        self._target, self._weights, self._bind, self._show = target, weights, bind, show
        self._base = Path.cwd()
        self._is_behind = False  # whether what is served runs older code than the files have
        # What each watched file was at the last look, and when it was last served.
        self._last: dict[Path, _Stamp] = {}
        self._served: dict[Path, _Stamp] = {}

    def run(self) -> int:
        """Serve until Ctrl-C (0), or until gunicorn ends by itself (its exit code); raises `ServeError`."""
        with tempfile.TemporaryDirectory(prefix="envserve-run-") as place:
            home = Path(place)
            # Once: while an editor saves, the file may be missing for a moment.
            if self._target.name:
                self._base = Path(self._target.environment(home)["SERVE_PYTHON_PATH"])
            prepared = prepare(self._target, self._weights, home)
            for finding in prepared.findings:
                self._show(f"{finding.about}: {finding.text}" + (f" ({finding.hint})" if finding.hint else ""))
            self._served = self._last = dict(self._stamps())
            self._publish(prepared.weights, home)
            self._prepared = prepared
            server = self._start(prepared, home)
            for ending in (signal.SIGINT, signal.SIGTERM):  # a shell starts what is in the background deaf to the first
                signal.signal(ending, signal.default_int_handler)
            try:
                self._wait_until_ready(server)
                while server.poll() is None:
                    time.sleep(_LOOK_S)
                    server = self._look(server, home)
                return server.returncode
            except KeyboardInterrupt:
                return 0
            finally:
                _end(server)

    def _start(self, prepared: Prepared, home: Path) -> subprocess.Popen[str]:
        environment = {**_SETTINGS, **prepared.target.environment(home), "SERVE_BIND": self._bind}
        command = [sys.executable, "-m", "gunicorn", "--log-level", "warning"]
        command += ["-c", "python:serve.gunicorn_conf", "serve.wsgi:app"]
        # In a group of its own: Ctrl-C is for this process, which ends the server in order.
        server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
        threading.Thread(target=self._report, args=(server.stderr,), daemon=True).start()
        return server

    def _report(self, lines: IO[str]) -> None:
        """Show what the server's log has for people."""
        for line in lines:
            try:
                facts = json.loads(line)
            except ValueError:
                facts = None
            self._is_behind = self._is_behind or "the reload is given up" in line
            if not isinstance(facts, dict):
                self._show(line.rstrip())
            elif facts.get("event") not in _QUIET:
                self._show(_as_text(facts))

    def _wait_until_ready(self, server: subprocess.Popen[str]) -> None:
        until_s = time.monotonic() + _READY_S
        while server.poll() is None and time.monotonic() < until_s:
            try:
                urllib.request.urlopen(f"http://{self._bind}/readyz", timeout=2).close()
            except OSError:
                time.sleep(0.1)
                continue
            self._show(f"http://{self._bind}/ has a page to try it, POST /predict answers; Ctrl-C ends it")
            return

    def _look(self, server: subprocess.Popen[str], home: Path) -> subprocess.Popen[str]:
        """Serve what has changed, and return the server, which is another one where weights need the new code."""
        found = dict(self._stamps())
        still = {path: stamp for path, stamp in found.items() if self._last.get(path) == stamp}
        changed = {path for path, stamp in still.items() if self._served.get(path) != stamp}
        self._last = found
        self._served = {**self._served, **still}
        is_new_code = bool(changed - {self._weights})
        if (is_new_code and self._weights is None) or (self._weights in changed and self._is_behind):
            return self._start_anew(server, home)
        if self._weights in changed:
            self._publish_or_report(self._weights, home)
        if is_new_code:
            self._show("code changed: a new worker takes over once it has loaded it")
            self._is_behind = False
            server.send_signal(signal.SIGHUP)
        return server

    def _start_anew(self, server: subprocess.Popen[str], home: Path) -> subprocess.Popen[str]:
        """Serve the new code with weights of its own: another architecture fits no checkpoint of the old one."""
        new = home / str(time.time_ns())
        new.mkdir()
        child = multiprocessing.get_context("spawn").Process(target=prepare, args=(self._target, self._weights, new))
        child.start()
        child.join()
        if child.exitcode != 0:
            return server  # what is wrong was printed; the old code serves on
        self._show("code changed: the server starts anew with it")
        self._publish_or_report(self._weights or new / "initial.pt", new)
        _end(server)
        self._is_behind = False
        server = self._start(self._prepared, new)
        self._wait_until_ready(server)
        return server

    def _publish_or_report(self, weights: Path, home: Path) -> None:
        try:
            self._publish(weights, home)
        except ServeError as error:  # the next look may find it whole
            self._show(describe(error))

    def _publish(self, weights: Path, home: Path) -> None:
        published = publish(weights, home / "checkpoints", name=f"{time.time_ns()}.weights")
        self._show("; ".join([f"weights: {weights.name}, sha256 {published.sha256[:12]}", *published.notes]))

    def _stamps(self) -> Iterator[tuple[Path, _Stamp]]:
        """List what is watched: the weights, and the modules that the class was imported from."""
        files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
        paths = [Path(file) for file in files if file.endswith(".py") and "site-packages" not in file]
        own = {path for path in paths if self._base in path.parents}
        for path in {*own, *([self._weights] if self._weights else [])}:
            try:
                found = path.stat()
            except OSError:
                continue
            yield path, (found.st_mtime_ns, found.st_size)


def _as_text(facts: Mapping[str, object]) -> str:
    """Write an event of the log on one line."""
    event, about = facts.get("event"), facts.get("reason") or facts.get("attributes") or facts.get("took_off")
    if event in ("swapped", "restored"):
        took_s = sum(float(str(facts.get(key) or 0)) for key in ("load_s", "warm_up_s"))
        sha256 = str(facts.get("sha256"))[:12]
        return f"live: generation {facts.get('generation')}, sha256 {sha256}, loaded in {took_s:.2f} s"
    hint = facts.get("hint")
    return f"{event}" + (f": {about}" if about else "") + (f" (hint: {hint})" if hint else "")


def _end(server: subprocess.Popen[str]) -> None:
    """End the server in order, and at once where that takes too long."""
    if server.poll() is None:
        server.terminate()
    try:
        server.wait(_END_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
