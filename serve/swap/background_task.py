"""Work in a thread of its own: a load that hangs never holds the reloader, and a long copy gives way to requests."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Callable, Generic, TypeVar

T = TypeVar("T")
# How the names of its threads begin.
PREPARATION = "prepare"


class BackgroundTask(Generic[T]):
    """Some work that has begun, and its result when it has one; on Linux it may be nicer than the process."""

    def __init__(self, work: Callable[[], T], name: str, niceness: int = 0) -> None:
        self._result: T | None = None
        self._is_abandoned = False
        self._lock = threading.Lock()
        self._done = threading.Event()
        self.error: BaseException | None = None
        given = work, niceness
        threading.Thread(target=self._run, args=given, name=f"{PREPARATION}-{name}", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the work, and return whether it has ended."""
        return self._done.wait(timeout_s)

    def take(self) -> T:
        """Hand the result over; the preparation holds it no longer. Raises `BaseException`: what the work raised."""
        if self.error is not None:
            raise self.error
        result, self._result = self._result, None
        if result is None:
            raise LookupError("the result was taken already")
        return result

    def abandon(self) -> None:
        """Let go of the result, should it still come. A thread cannot be ended from outside."""
        with self._lock:
            self._is_abandoned, self._result = True, None

    def _run(self, work: Callable[[], T], niceness: int) -> None:
        give_way(niceness)
        try:
            result = work()
            with self._lock:
                self._result = None if self._is_abandoned else result
        except BaseException as error:  # the user's code may even call sys.exit
            self.error = error
        finally:
            self._done.set()


def give_way(niceness: int) -> None:
    """Lower the priority of this thread for the rest of its life."""
    # Elsewhere a thread has no priority of its own. It can never be taken back without a privilege, so that only a
    # thread that ends with its work may ask for it. Source: setpriority(2), "C library/kernel differences".
    if niceness and sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
