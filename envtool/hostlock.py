"""A lock that one process of a host holds at a time: whoever comes second waits, and says for what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from envtool.report import say


@contextmanager
def hold(lock_path: Path, changed: Path) -> Iterator[None]:
    """Hold a lock that the kernel releases when its holder dies.

    Args:
        lock_path: The file that stands for the lock; its directory must be there.
        changed: What is changed under it, for whoever waits.

    Raises:
        OSError: The file cannot be written.
    """
    from filelock import FileLock, Timeout  # takes as long to import as all else that a no-op needs

    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another envtool is changing {changed}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
