"""Work in a thread of its own: a load that hangs never holds the reloader, and a long copy gives way to requests."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from concurrent.futures import Future, wait
from typing import Callable, Generic, TypeVar

T = TypeVar("T")
PREPARATION = "prepare"  # how the names of its threads begin


class BackgroundTask(Generic[T]):
    """Some work that has begun, and its result when it has one; on Linux it may be nicer than the process."""

    def __init__(self, work: Callable[[], T], name: str, niceness: int = 0) -> None:
        self._future: Future[T] = Future()
        given = self._future, work, niceness
        threading.Thread(target=_run, args=given, name=f"{PREPARATION}-{name}", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the work, and return whether it has ended."""
        return bool(wait([self._future], timeout_s).done)

    def take(self) -> T:
        """Hand the result over, once it is there; this holds it no longer. Raises what the work raised."""
        future = self._future
        self.abandon()
        return future.result(0)

    def abandon(self) -> None:
        """Let go of the result, should it still come. A thread cannot be ended from outside."""
        self._future = Future()


def _run(future: Future[T], work: Callable[[], T], niceness: int) -> None:
    give_way(niceness)
    try:
        future.set_result(work())
    except BaseException as error:  # the user's code may even call sys.exit
        future.set_exception(error)


def give_way(niceness: int) -> None:
    """Lower the priority of this thread for the rest of its life."""
    # Elsewhere a thread has no priority of its own. It can never be taken back without a privilege, so that only a
    # thread that ends with its work may ask for it. Source: setpriority(2), "C library/kernel differences".
    if niceness and sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
