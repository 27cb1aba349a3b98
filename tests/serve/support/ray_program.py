"""Ray's command `ray` for a machine that does other work; `ray stop` ends what has its RAY_TMPDIR, and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from ray_cluster import be_patient


def find_processes(scratch: str) -> list[int]:
    """The processes of a cluster, by the directory that they were given."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"RAY_TMPDIR={scratch}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return [pid for pid in found if pid not in (os.getpid(), os.getppid())]


def stop(scratch: str) -> None:
    """End a cluster: in order first, by force what is left."""
    for number, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
        until_s = time.monotonic() + patience_s
        for pid in find_processes(scratch):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while find_processes(scratch) and time.monotonic() < until_s:
            time.sleep(0.2)


if __name__ == "__main__":
    if sys.argv[1] == "stop":
        stop(os.environ["RAY_TMPDIR"])
    else:
        be_patient()
        from ray.scripts.scripts import main

        sys.exit(main())
