"""The state of a service: what is current, what runs, whether it answers. Looking changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from envtool.deploy import gunicorn_handover, gunicorn_masters
from envtool.deploy.release_directory import Release, ReleaseDirectory


@dataclass(frozen=True)
class Running:
    """A master that runs."""

    pid: int
    release: str
    workers: int
    listeners: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """How a service is.

    Args:
        trouble: what is wrong; None when the current release serves and is well.
    """

    current: str | None
    releases: tuple[Release, ...]
    running: tuple[Running, ...]
    trouble: str | None


def look(root: ReleaseDirectory, path: str) -> Status:
    """Look at a service."""
    found = []
    for each in gunicorn_masters.masters(root.run):
        word = gunicorn_masters.word_of(root.run, each.pid)
        ready = gunicorn_masters.ready_workers(root.run, each.pid)
        found.append(Running(each.pid, each.release, ready, word.listeners if word else ()))
    current = root.current()
    return Status(current, tuple(root.releases().values()), tuple(found), _trouble(root, current, found, path))


def _trouble(root: ReleaseDirectory, current: str | None, running: list[Running], path: str) -> str | None:
    if current is None:
        return "there is no release yet"
    if not running:
        return "nothing runs"
    if len(running) > 1:
        return "a hand-over is going on, or was broken off; the next apply settles it"
    if running[0].release != current:
        return f"release {running[0].release} runs, which is not the current one"
    return gunicorn_handover.check(root, path)
