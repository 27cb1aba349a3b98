"""This process's memory: how much it uses, and giving back what it does not."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def used_bytes() -> int:
    """Return how much memory of its own this process uses: resident pages that no file backs.

    Mapped weights are not counted, because all workers share them.
    """
    try:
        _, resident, shared = Path("/proc/self/statm").read_text(encoding="ascii").split()[:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def trim_memory() -> None:
    """Have the C library give freed memory back to the kernel.

    Small tensors come from arenas that glibc keeps; without this a worker stays as large as it ever was. ctypes lets
    go of the interpreter lock meanwhile.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
