"""The hand-over of `kill -HUP`, and the end of a worker's process.

Gunicorn tells the old workers to end as soon as it has forked the new ones, which then import torch for seconds
(gunicorn#3394). `on_reload` has it wait once: the old workers answer until each new one has its models and takes
requests. Where a new worker dies, or has no model to answer with, it is the old ones that stay, and the new one never
takes a request. Meanwhile the host holds both sets in memory.

A worker's process ends at once when all that Python does at exit is done. What would follow is the taking apart of the
interpreter, from which a worker has nothing to gain and two things to fear: Python below 3.10.9 and 3.11.1 waits for
ever when a background thread asks for the interpreter lock in that moment (cpython#96387; 2 of 80 ends of a worker on
3.9.18), and a thread that loads a model ends the process by SIGABRT."""

from __future__ import annotations

import atexit
import contextlib
import logging
import mmap
import os
import signal
import sys
import time
from typing import Any, Callable

from gunicorn.errors import HaltServer

_LOOK_S = 0.02


class Handover:
    """The reports of new workers to the master; made in the master, before its workers."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._is_pending = mmap.mmap(-1, mmap.PAGESIZE)

    def say(self, can_answer: bool) -> None:
        """Tell the master that this worker takes requests from now on, and whether it can answer any."""
        # The pipe is full after thousands of workers without a reload; the next reload empties it first.
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"%d %d\n" % (os.getpid(), can_answer))

    def wait(self, is_wanted: Callable[[], bool]) -> None:
        """Take no requests while the master may still decide for the old workers; for one that cannot answer any."""
        while self._is_pending[0] and is_wanted():
            time.sleep(_LOOK_S)

    def hold(self, arbiter: Any) -> None:
        """Have the master, which is about to fork new workers, wait once before it ends those that it has now."""
        self._hear()
        old, manage = list(arbiter.WORKERS), arbiter.manage_workers

        def wait_and_manage() -> None:
            del arbiter.manage_workers  # the method of its class is there again
            waiting = set(arbiter.WORKERS) - set(old)
            try:
                has_died = len(waiting) < arbiter.cfg.workers  # one may have died before the last was forked
                reason = "a new worker has died" if has_died else self._wait(arbiter, waiting)
            except HaltServer as error:  # a worker failed to boot; gunicorn 23 says so in a signal handler, anywhere
                reason = str(error.reason)
            if reason is not None:
                arbiter.log.error("the reload is given up, and the workers stay: %s", reason)
                _end(arbiter, waiting)
                # Gunicorn ends the oldest of those that are too many, until those of before the reload are gone.
                for pid in (pid for pid in old if pid in arbiter.WORKERS):
                    arbiter.worker_age += 1
                    arbiter.WORKERS[pid].age = arbiter.worker_age
            manage()
            self._is_pending[0] = 0

        arbiter.manage_workers = wait_and_manage
        self._is_pending[0] = 1

    def _wait(self, arbiter: Any, waiting: set[int]) -> str | None:
        """Wait until no new worker is waited for; a reason when they are not to replace the old ones."""
        new = set(waiting)
        while waiting:
            if _is_called(arbiter.SIG_QUEUE):
                return "another signal came"
            arbiter.reap_workers()
            arbiter.murder_workers()
            if new - set(arbiter.WORKERS):
                return "a new worker has died"
            reports = self._hear()
            if not all(reports.get(pid, True) for pid in waiting):
                return "a new worker has no model to answer with"
            waiting.difference_update(reports)
            time.sleep(_LOOK_S)
        return None

    def _hear(self) -> dict[int, bool]:
        text = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._reader, 65536):
                text += part
        lines = (line.split() for line in text.splitlines())
        return {int(pid): can_answer == b"1" for pid, can_answer in lines}


def _end(arbiter: Any, waiting: set[int]) -> None:
    """End new workers that have taken no requests, before gunicorn can take their failure to boot for its own end."""
    for pid in waiting & set(arbiter.WORKERS):
        arbiter.kill_worker(pid, signal.SIGKILL)
    while waiting & set(arbiter.WORKERS):
        with contextlib.suppress(HaltServer):
            arbiter.reap_workers()
            time.sleep(_LOOK_S)


def _is_called(queue: Any) -> bool:
    """Whether a signal waits for the master, beside the death of children."""
    waiting = list(queue) if isinstance(queue, list) else [queue.get_nowait() for _ in range(queue.qsize())]
    if not isinstance(queue, list):
        for number in waiting:
            queue.put_nowait(number)
    return any(number not in (signal.SIGCHLD, signal.NSIG) for number in waiting)


class ProcessExit:
    """How this process will end; made in the master before anything else of ours. Exit functions run in the order last
    come, first gone, so ours is the last of all that come later, in the master or in a worker. Those before it are the
    master's."""

    def __init__(self) -> None:
        self._ending: tuple[int, int] | None = None
        atexit.register(self._leave)

    def prepare(self) -> None:
        """Have this process end after its exit functions, with the status of the `SystemExit` that is on its way."""
        code = getattr(sys.exc_info()[1], "code", None) or 0
        self._ending = os.getpid(), code if isinstance(code, int) else 1

    def _leave(self) -> None:
        # A process that was forked in the meantime has an end of its own.
        if self._ending is None or self._ending[0] != os.getpid():
            return
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(self._ending[1])
