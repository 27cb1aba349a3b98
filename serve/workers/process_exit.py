"""The end of a worker's process: all that Python does at exit is done, and then the process ends at once.

What would follow is the taking apart of the interpreter, from which a worker has nothing to gain and two things to
fear: Python below 3.10.9 and 3.11.1 waits for ever when a background thread asks for the interpreter lock in that
moment (cpython#96387; 2 of 80 ends of a worker on 3.9.18), and a thread that loads a model ends the process by SIGABRT.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys


class ProcessExit:
    """How this process will end; made in the master before anything else of ours.

    Exit functions run in the order last come, first gone, so ours is the last of all that come later, in the master or
    in a worker. Those before it are the master's.
    """

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
