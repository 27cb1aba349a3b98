"""A peer's processes: started, waited for, weighed and ended."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from catalog import Peer, Start, environment

_PATIENCE_S = 90
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Find a port whose two successors are free as well, as some peers take three."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError), socket.socket() as second, socket.socket() as third:
                second.bind(("127.0.0.1", port + 1))
                third.bind(("127.0.0.1", port + 2))
                return port


@contextlib.contextmanager
def running(peer: Peer, start: Start, is_ready: Callable[[], bool]) -> Iterator[int]:
    """Run a peer until the block ends.

    Args:
        peer: what to run.
        start: how.
        is_ready: asks it for a prediction.

    Yields:
        The process id, once it answers.
    """
    command, extra = peer.command(start)
    with (start.directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=start.directory,
            env={**environment(start), **extra},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_ready(peer, start, process, is_ready)
        yield process.pid
    finally:
        _end(process, f"BENCH_PORT={start.port}")


def _wait_until_ready(peer: Peer, start: Start, process: subprocess.Popen[bytes], is_ready: Callable[[], bool]) -> None:
    until_s, in_a_row = time.monotonic() + _PATIENCE_S, 0
    while in_a_row < 8:  # every worker shall be there, and one address answers for all
        if process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"{peer.name} does not answer:\n{(start.directory / 'log').read_text()[-3000:]}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            in_a_row = in_a_row + 1 if is_ready() else 0
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    # Everything that it started, in whatever session: some peers start daemons.
    members = family(process.pid)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    # And what a supervisor has started again meanwhile, which has lost its parent since.
    for pid in {*members, *_marked(mark)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _marked(mark: str) -> Iterator[int]:
    """Go through the processes whose environment has a variable that this run alone has set."""
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (directory / "environ").read_bytes().split(b"\0"):
                yield int(directory.name)


def family(pid: int) -> list[int]:
    """List a process and all that descend from it."""
    members = [pid]
    for parent in members:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                members += [int(child) for child in (task / "children").read_text().split()]
    return members


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a family has used, all threads included."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total * _TICK_S


def pss_bytes(pid: int) -> int:
    """The memory of a family, each shared page counted once."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total
