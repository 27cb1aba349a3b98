"""From one release to another under traffic: a second gunicorn master takes over the listening socket of the first.
Each step is noted in run/handover.json before it is done, so that after a crash `decide` finds out what to do."""

from __future__ import annotations

import contextlib
import enum
import http.client
import json
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from envtool.atomic_files import write_atomically
from envtool.deploy import gunicorn_masters
from envtool.deploy.gunicorn_masters import Master
from envtool.deploy.release_directory import Release, ReleaseDirectory
from envtool.errors import DeployError
from envtool.subprocesses import Background

_NOTE = "handover.json"
# Gunicorn gives its requests 30 s (graceful_timeout); a second more is patience, ten are a hang.
_RETIRE_S = 60.0
_CLAIM_S = 10.0
_CALLS = 4
_CALL_S = 3.0


@dataclass(frozen=True)
class Note:
    """A hand-over that has begun."""

    old: str
    new: str
    is_retiring: bool = False


class Action(enum.Enum):
    """What to do about an earlier hand-over."""

    NOTHING = "nothing"
    GO_BACK = "go back"
    GO_ON = "go on"
    SETTLE = "settle"


class Decision(NamedTuple):
    """What to do, and which release is current after it."""

    action: Action
    current: str | None = None


def decide(note: Note | None, running: Sequence[Master]) -> Decision:
    """What to do about what an earlier run left behind."""
    if len(running) > 1:
        old, new = running[0], running[-1]
        # The old one may have closed its listener already: then only the newcomer takes requests.
        if note is not None and note.is_retiring:
            return Decision(Action.GO_ON, new.release)
        return Decision(Action.GO_BACK, old.release)
    if note is None:
        return Decision(Action.NOTHING)
    return Decision(Action.SETTLE, running[0].release if running else note.old)


def settle(root: ReleaseDirectory) -> Decision:
    """Bring what an earlier run left behind to a state from which to go on."""
    for master in gunicorn_masters.masters(root.trial):
        gunicorn_masters.stop(master.pid, _CLAIM_S)
    running = gunicorn_masters.masters(root.run)
    note = root.run / _NOTE
    decision = decide(Note(**json.loads(note.read_bytes())) if note.exists() else None, running)
    if decision.current is not None:
        root.set_current(decision.current)
    if decision.action is Action.GO_BACK:
        _go_back(root, running[0], running[1:])
    elif decision.action is Action.GO_ON:
        _retire(root, running[0], running[-1].pid)
    _done(root)
    gunicorn_masters.sweep(root.run)
    return decision


def hand_over(root: ReleaseDirectory, old: Master, new: str, limit_s: float) -> None:
    """Have another release serve without a pause. Raises DeployError if it did not come up; the old one serves on."""
    _write(root, Note(old.release, new))
    root.set_current(new)
    newcomer = _call_newcomer(root, old)
    trouble = "it did not start" if newcomer is None else _await_workers(root, newcomer, limit_s)
    if newcomer is None or trouble:
        _go_back(root, old, [newcomer] if newcomer else [])
        root.set_current(old.release)
        _done(root)
        hint = "see the log of the service; the release before it was never interrupted"
        raise DeployError(f"release {new} does not take over: {trouble}", hint)
    _claim(root, newcomer.pid)
    _write(root, Note(old.release, new, is_retiring=True))
    _retire(root, old, newcomer.pid)
    _done(root)
    gunicorn_masters.sweep(root.run)


def check(root: ReleaseDirectory, path: str) -> str | None:
    """What is wrong with the service that runs; None when it answers well."""
    running = gunicorn_masters.masters(root.run)
    word = gunicorn_masters.word_of(root.run, running[-1].pid) if running else None
    if word is None:
        return "it does not run"
    return ask(word.listeners[0], path)


def _call_newcomer(root: ReleaseDirectory, old: Master) -> Master | None:
    # What was seen once is kept: while a process becomes another program, the kernel shows it without its environment.
    seen: list[Master] = []

    def is_seen() -> bool:
        running = gunicorn_masters.masters(root.run)
        seen.extend(each for each in running if each.is_newcomer and each.pid != old.pid)
        return bool(seen)

    for _ in range(_CALLS):
        # A master that has just become the only one overhears the first call; one that has heard it ignores the next.
        gunicorn_masters.send(old.pid, signal.SIGUSR2)
        if gunicorn_masters.wait_until(is_seen, _CALL_S):
            return seen[0]
    return None


def _await_workers(root: ReleaseDirectory, newcomer: Master, limit_s: float) -> str | None:
    def is_over() -> bool:
        word = gunicorn_masters.word_of(root.run, newcomer.pid)
        is_ready = word is not None and gunicorn_masters.ready_workers(root.run, newcomer.pid) >= word.workers
        return is_ready or not gunicorn_masters.is_alive(newcomer.pid) or is_dying()

    def is_dying() -> bool:
        # One may have had bad luck. When more have ended than there shall be, it is the release.
        word = gunicorn_masters.word_of(root.run, newcomer.pid)
        return word is not None and gunicorn_masters.ended_workers(root.run, newcomer.pid) > word.workers

    is_in_time = gunicorn_masters.wait_until(is_over, limit_s)
    if not gunicorn_masters.is_alive(newcomer.pid):
        return "it started and ended"
    if is_dying():
        return "its workers die again and again"
    return None if is_in_time else f"not all of its workers take requests after {limit_s:g} s"


def _claim(root: ReleaseDirectory, pid: int) -> None:
    # Waits for the master to tell systemd that it is the main process, while the one before it is still there.
    write_atomically(root.run / "main", f"{pid}\n")
    claimed = root.run / f"main.{pid}"
    gunicorn_masters.wait_until(lambda: claimed.exists() or not gunicorn_masters.is_alive(pid), _CLAIM_S)


def _retire(root: ReleaseDirectory, old: Master, newcomer: int) -> None:
    gunicorn_masters.stop(old.pid, _RETIRE_S)
    pidfile = root.run / "gunicorn.pid"
    with contextlib.suppress(FileNotFoundError):
        if pidfile.read_text().strip() == str(old.pid):
            pidfile.unlink()  # it ended by force; its successor refuses to write over the number of a process

    def is_promoted() -> bool:
        is_named = pidfile.exists() and pidfile.read_text().strip() == str(newcomer)
        return is_named or not gunicorn_masters.is_alive(newcomer)

    if not gunicorn_masters.wait_until(is_promoted, _RETIRE_S):
        raise DeployError(f"master {newcomer} did not become the only one", "see the log of the service")


def _go_back(root: ReleaseDirectory, old: Master, newcomers: Sequence[Master]) -> None:
    if not newcomers:
        return
    main = root.run / "main"
    if main.exists() and main.read_text().strip() in {str(each.pid) for each in newcomers}:
        (root.run / f"main.{old.pid}").unlink(missing_ok=True)
        _claim(root, old.pid)
    for process in newcomers:
        gunicorn_masters.stop(process.pid, _RETIRE_S)


def _write(root: ReleaseDirectory, note: Note) -> None:
    write_atomically(root.run / _NOTE, json.dumps(asdict(note)) + "\n")


def _done(root: ReleaseDirectory) -> None:
    (root.run / _NOTE).unlink(missing_ok=True)


@dataclass(frozen=True)
class Running:
    """A master that runs."""

    pid: int
    release: str
    workers: int
    listeners: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """How a service is."""

    current: str | None
    releases: tuple[Release, ...]
    running: tuple[Running, ...]
    trouble: str | None  # None when the current release serves and is well


def look(root: ReleaseDirectory, path: str) -> Status:
    """Look at a service."""
    found = []
    for master in gunicorn_masters.masters(root.run):
        word = gunicorn_masters.word_of(root.run, master.pid)
        ready = gunicorn_masters.ready_workers(root.run, master.pid)
        found.append(Running(master.pid, master.release, ready, word.listeners if word else ()))
    current = root.current()
    if current is None:
        trouble: str | None = "there is no release yet"
    elif not found:
        trouble = "nothing runs"
    elif len(found) > 1:
        trouble = "a hand-over is going on, or was broken off; the next apply settles it"
    elif found[0].release != current:
        trouble = f"release {found[0].release} runs, which is not the current one"
    else:
        trouble = check(root, path)
    return Status(current, tuple(root.releases().values()), tuple(found), trouble)


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
    """Start one worker of a release. Raises DeployError, with the end of its log, if it is unhealthy."""
    shutil.rmtree(root.trial, ignore_errors=True)
    root.trial.mkdir(parents=True)
    address = f"unix:{root.trial}/socket"
    argv = [str(root.start), "--bind", address, "--workers", "1"]
    log = root.trial / "log"
    # That of the service where it runs, else the caller's own.
    found = os.environ if serving is None else serving.environ
    variables = {name: value for name, value in found.items() if name not in _OTHERS}
    variables.update(ENVSERVE_RELEASE=str(root.directory(digest)), ENVSERVE_RUN=str(root.trial))
    server = Background(argv, variables, root.path, log)
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
