"""From one release to another under traffic: a second gunicorn master takes over the listening socket of the first.

Each step is noted in run/handover.json before it is done. After a crash, `decide` finds out from the running processes
and that note what to do, and doing it again does no harm.
"""

from __future__ import annotations

import contextlib
import enum
import json
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from envtool.atomic_files import write_atomically
from envtool.deploy import gunicorn_masters, health
from envtool.deploy.gunicorn_masters import Master
from envtool.deploy.release_directory import Release, ReleaseDirectory
from envtool.errors import DeployError

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


@dataclass(frozen=True)
class Decision:
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
    for each in gunicorn_masters.masters(root.trial):
        gunicorn_masters.stop(each.pid, _CLAIM_S)
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
    """Have another release serve, without a moment in which none does. Raises DeployError if the new release did not
    come up; the old one serves, and is current."""
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
    return health.ask(word.listeners[0], path)


def _call_newcomer(root: ReleaseDirectory, old: Master) -> Master | None:
    def found() -> list[Master]:
        return [each for each in gunicorn_masters.masters(root.run) if each.is_newcomer and each.pid != old.pid]

    for _ in range(_CALLS):
        # A master that has just become the only one overhears the first call; one that has heard it ignores the next.
        gunicorn_masters.send(old.pid, signal.SIGUSR2)
        if gunicorn_masters.wait_until(lambda: bool(found()), _CALL_S):
            return next(iter(found()), None)
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
    for each in newcomers:
        gunicorn_masters.stop(each.pid, _RETIRE_S)


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
    for each in gunicorn_masters.masters(root.run):
        word = gunicorn_masters.word_of(root.run, each.pid)
        ready = gunicorn_masters.ready_workers(root.run, each.pid)
        found.append(Running(each.pid, each.release, ready, word.listeners if word else ()))
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
