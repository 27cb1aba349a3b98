"""The directory through which the workers of one server share their counts (prometheus_client's multiprocess mode).

The master makes it before the first worker starts, and every worker inherits its name by the environment variable that
prometheus_client reads when it is imported. A lock that ends with the server's last process tells whose it is, so that
the next server removes what a killed one has left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import MutableMapping
from pathlib import Path

from serve import durable_files

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "envserve-metrics-"
_LOCK = "lock"
_SETTLE_S = 60.0  # a directory this young may belong to a server that has not locked it yet
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - privately; the counts are written all the time


def make(environ: MutableMapping[str, str], parent: Path | None = None) -> Path:
    """Make this server's directory, which `environ` names from then on, and remove those of servers that are gone."""
    parent = parent or (_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else Path(tempfile.gettempdir()))
    for left in parent.glob(_PREFIX + "*"):
        if _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    durable_files.claim(directory / _LOCK)  # never closed: the kernel does it when the master and its heirs have ended
    environ[VARIABLE] = str(directory)
    return directory


def remove(environ: MutableMapping[str, str]) -> None:
    """Remove the directory of a server that ends."""
    directory = environ.pop(VARIABLE, None)
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)


def _is_abandoned(directory: Path) -> bool:
    try:
        seen = directory.stat()
    except FileNotFoundError:
        return False
    is_settled = time.time() - seen.st_mtime > _SETTLE_S
    return is_settled and seen.st_uid == os.getuid() and not durable_files.is_held(directory / _LOCK)


def join(environ: MutableMapping[str, str], directory: Path) -> None:
    """Share a directory with the processes that are there, until this one ends; it is emptied where there are none."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in directory.glob("*.db"):
            left.unlink()
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    environ[VARIABLE] = str(directory)
