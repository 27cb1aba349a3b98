"""A lock that one process of a host holds at a time: whoever comes second waits, and reports for what."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from envtool.console import say


@contextmanager
def hold(lock_path: Path, changed: Path) -> Iterator[None]:
    """Hold a lock that the kernel releases when its holder dies; who waits is shown `changed`. Raises OSError."""
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another envtool is changing {changed}; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # which releases it; the file stays, or two could each hold one of the same name
