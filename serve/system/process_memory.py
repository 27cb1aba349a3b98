"""This process's memory: how much it uses, and giving back what it does not."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ENOUGH_BYTES = 200


def used_bytes() -> int:
    """Return how much memory of its own this process uses: resident pages that no file backs.

    Mapped weights are not counted, because all workers share them.
    """
    try:
        _, resident, shared = os.pread(_open_statm(os.getpid()), _ENOUGH_BYTES, 0).split()[:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def trim_memory() -> None:
    """Have the C library give freed memory back to the kernel.

    Small tensors come from arenas that glibc keeps; without this a worker stays as large as it ever was. ctypes lets
    go of the interpreter lock meanwhile.
    """
    trim = _find_trim()
    if trim is not None:
        trim(0)


# Kept open, by each process for itself: every call that may wait hands the interpreter lock to somebody else.
@functools.lru_cache(maxsize=1)
def _open_statm(pid: int) -> int:
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


@functools.lru_cache(maxsize=1)
def _find_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
