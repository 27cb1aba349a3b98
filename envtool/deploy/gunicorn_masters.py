"""Gunicorn's masters of one service, as the kernel shows them, since a note on a disk can be out of date. A master has
`ENVSERVE_RUN` in its environment and writes what it listens on to a file under run/; its workers are its children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_POLL_S = 0.05


class Process(NamedTuple):
    """A process that belongs to a service."""

    pid: int
    parent: int
    environ: Mapping[str, str]


class Master(NamedTuple):
    """A master of gunicorn."""

    pid: int
    release: str
    is_newcomer: bool
    environ: Mapping[str, str]


class Word(NamedTuple):
    """What a master reports once it listens."""

    workers: int
    listeners: tuple[str, ...]  # `host:port`, or `unix:` and a path


def masters(run: Path) -> list[Master]:
    """The masters that run for a directory run/, the oldest first; two while one replaces the other."""
    return find_masters(list(_processes(str(run))))


def find_masters(processes: list[Process]) -> list[Master]:
    """Which of the processes of a service are masters. A worker has its master's environment too, but is a child; a
    newcomer is a child as well, but its `GUNICORN_PID` names its parent, which it replaces."""
    own = {each.pid for each in processes}
    found = []
    for process in processes:
        is_newcomer = process.environ.get("GUNICORN_PID") == str(process.parent) and process.parent in own
        if is_newcomer or process.parent not in own:
            digest = Path(process.environ.get("ENVSERVE_SERVES", "")).name
            found.append(Master(process.pid, digest, is_newcomer, process.environ))
    return sorted(found, key=lambda each: (each.is_newcomer, each.pid))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for does not."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def word_of(run: Path, pid: int) -> Word | None:
    """What a master reports; None before it listens."""
    try:
        said = json.loads((run / f"master.{pid}").read_bytes())
        return Word(said["workers"], tuple(said["listeners"]))
    except (OSError, ValueError, KeyError):
        return None


def ready_workers(run: Path, pid: int) -> int:
    """How many workers of a master have said that they can take requests, and still run."""
    numbers = [path.suffix[1:] for path in run.glob(f"worker.{pid}.*")]
    return sum(is_alive(int(number)) for number in numbers if number.isdigit())


def ended_workers(run: Path, pid: int) -> int:
    """How many workers of a master have ended, in whatever way."""
    try:
        return int((run / f"ended.{pid}").read_text() or 0)
    except (OSError, ValueError):
        return 0


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that has ended meanwhile is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def stop(pid: int, patience_s: float) -> None:
    """End a master and its workers: gracefully first, by force once patience is over."""
    send(pid, signal.SIGTERM)
    if wait_until(lambda: not is_alive(pid), patience_s):
        return
    for each in [pid, *_workers(pid)]:
        send(each, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), patience_s)


def wait_until(is_true: Callable[[], bool], limit_s: float) -> bool:
    """Wait for a condition; returns whether it came true in time."""
    deadline = time.monotonic() + limit_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def sweep(run: Path) -> None:
    """Remove what processes that are gone have said."""
    for path in [*run.glob("worker.*.*"), *run.glob("master.*"), *run.glob("main.*"), *run.glob("ended.*")]:
        number = path.suffix[1:]
        if number.isdigit() and not is_alive(int(number)):
            path.unlink(missing_ok=True)


def _processes(run: str) -> Iterator[Process]:
    for directory in _PROC.iterdir():
        if not directory.name.isdigit():
            continue
        environ = dict(each.split("=", 1) for each in _environ(int(directory.name)) if "=" in each)
        try:
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue  # it ended meanwhile
        # A shell that is about to become gunicorn has no release yet; a child that was forked from us has ours.
        if environ.get("ENVSERVE_RUN") == run and "ENVSERVE_SERVES" in environ:
            yield Process(int(directory.name), parent, environ)


def _workers(pid: int) -> list[int]:
    try:
        children = [int(each) for each in (_PROC / f"{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    # Its successor is its child as well.
    return [child for child in children if f"GUNICORN_PID={pid}" not in _environ(child)]


def _environ(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
