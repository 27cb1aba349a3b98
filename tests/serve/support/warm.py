"""An interpreter that has imported torch, from which the servers of the tests are forked.

To import torch takes each worker seconds of a core, and the tests start hundreds of workers. A server that is forked
runs the same gunicorn with the same arguments, environment and directory; only the modules below are loaded already, as
they are in an application that is preloaded. No module of `serve` is among them, and no thread has been started.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Neither `prometheus_client` nor gunicorn: the one takes its directory from the environment that it is imported in, the
# other is where it is imported.
_LOADED = ("numpy", "torch", "safetensors.torch", "flask", "uvicorn")


class Process:
    """A forked server, to be waited for and ended as a `subprocess.Popen` is."""

    returncode: int | None = None

    def __init__(self, pid: int, status: Path, args: list[str], parent: subprocess.Popen[str]) -> None:
        self.pid, self.args = pid, args
        self._status, self._parent = status, parent

    def poll(self) -> int | None:
        if self.returncode is None:
            is_alone = self._parent.poll() is not None
            if self._status.exists():
                self.returncode = int(self._status.read_text())
            elif is_alone:  # nobody will ever write its status
                raise ChildProcessError(f"the interpreter that forked {self.args} has ended before it")
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and its status is about to be written
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Interpreter:
    """One for this process of the tests; it is started with the first server, and ended with the tests."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[str] | None = None
        # Not beside a server's log: a test may fill or remove its directory.
        self._statuses: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def start(
        self, argv: list[str], directory: Path, environ: dict[str, str], log: Path, errors: Path | None = None
    ) -> Process:
        """Run `python -m` with these arguments, as a process that has imported torch already.

        Args:
            log: gets what it prints; errors too, where they have no file of their own.
        """
        if self._statuses is None:
            self._statuses = tempfile.TemporaryDirectory(prefix="envserve-servers-")
        if self._running is None or self._running.poll() is not None:
            command = [sys.executable, __file__]
            self._running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._count += 1
        status = Path(self._statuses.name, f"{self._count}.status")
        files = {"log": str(log), "errors": str(errors or log), "status": str(status)}
        order = {"argv": argv, "directory": str(directory), "environ": environ, **files}
        self._running.stdin.write(json.dumps(order) + "\n")
        self._running.stdin.flush()
        return Process(int(self._running.stdout.readline()), status, argv, self._running)

    def run(self, argv: list[str], directory: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run `python -m` with these arguments to its end."""
        with tempfile.TemporaryDirectory() as scratch:
            out, errors = Path(scratch, "out"), Path(scratch, "errors")
            code = self.start(argv, directory, environ, out, errors).wait()
            return subprocess.CompletedProcess(argv, code, out.read_text(), errors.read_text())

    def end(self) -> None:
        if self._running is not None:
            try:
                self._running.communicate(timeout=20)
            except subprocess.TimeoutExpired:  # what a test has forked and left holds its standard input open
                self._running.kill()
                self._running.communicate()
            self._running = None
        if self._statuses is not None:
            self._statuses.cleanup()
            self._statuses = None


INTERPRETER = Interpreter()


def _fork_servers() -> None:
    """Fork a server for each line of standard input, and write down how each has ended."""
    for name in _LOADED:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    statuses: dict[int, Path] = {}

    def note_ends(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                path = statuses.pop(pid)
                code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                path.with_suffix(".new").write_text(str(code))
                path.with_suffix(".new").replace(path)

    signal.signal(signal.SIGCHLD, note_ends)
    for line in sys.stdin:
        order = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            _become(order)
        statuses[pid] = Path(order["status"])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        print(pid, flush=True)


def _become(order: dict) -> None:
    """Turn this process into the server of an order, and never return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environ"])
    tempfile.tempdir = None
    nothing = os.open(os.devnull, os.O_RDONLY)
    log, errors = (os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) for name in ("log", "errors"))
    for source, target in ((nothing, 0), (log, 1), (errors, 2)):
        os.dup2(source, target)
    module, *arguments = order["argv"]
    # As `python -m` has them.
    sys.argv[:] = ["-m", *arguments]
    sys.path[:1] = [order["directory"], *filter(None, order["environ"].get("PYTHONPATH", "").split(os.pathsep))]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    _fork_servers()
