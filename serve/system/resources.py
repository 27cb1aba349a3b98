"""The processor cores and the memory that this process may use, and uses.

Fewer than the machine has, in a container or under taskset: its control groups, and those above them, limit it. Source:
the kernel's Documentation/admin-guide/cgroup-v2.rst ("CPU Interface Files") and cgroup-v1/cgroups.rst and memory.rst.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from serve.errors import MemoryShortError


class Group(NamedTuple):
    """A control group."""

    path: Path  # its directory, which need not exist: in a container it may be the host's path
    is_v2: bool  # whether it is one of cgroup v2, whose files have other names


def groups_of(controller: str, root: Path) -> Iterator[Group]:
    """Go through the groups of this process, its own first."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    mount = root / "sys" / "fs" / "cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        own = PurePosixPath(*(part for part in path.split("/") if part not in ("", "..")))
        for place in (own, *own.parents):
            yield Group((mount / controller if controllers else mount) / place, not controllers)


_ROOT = Path("/")


def count_cores(root: Path = _ROOT) -> int:
    """Count the cores that this process may use, at least one."""
    has_affinity = hasattr(os, "sched_getaffinity")
    allowed = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, math.floor(min([allowed, *map(_quota, groups_of("cpu", root))])))


def _quota(group: Group) -> float:
    """Return the limit of a group, in cores; infinite where it has none."""
    names = ("cpu.max",) if group.is_v2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        quota, period = " ".join((group.path / name).read_text(encoding="ascii") for name in names).split()
        return math.inf if quota == "max" or int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def threads_of_an_operation(cores: int, workers: int, environ: Mapping[str, str]) -> int:
    """Choose how many threads one torch operation uses in each worker; `OMP_NUM_THREADS` is the user's word. More than
    there are cores for costs more than it brings: on two cores, two threads in each of two workers halved the rate."""
    stated = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    return max(1, cores // workers)


# The limit, what is used, and the part of the file cache that the kernel gives up before it kills anybody.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_NO_LIMIT_BYTES = 1 << 60  # what v1 states for "none" is the largest number of pages that it can count, in bytes
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Available:
    """Memory that can still be taken."""

    size_bytes: int
    source: str


def read_available(root: Path = _ROOT) -> Available | None:
    """Read how much memory this process may still take, by the tightest of all limits; `None` where there are none."""
    kibibytes = _find_number(root / "proc" / "meminfo", "MemAvailable:")
    limits = [] if kibibytes is None else [Available(kibibytes * 1024, "MemAvailable")]
    for group in groups_of("memory", root):
        found = _read_group(group.path, *(_V2 if group.is_v2 else _V1))
        limits += [] if found is None else [found]
    return min(limits, key=lambda limit: limit.size_bytes, default=None)


def require_memory(needed_bytes: int, available: Available | None, purpose: str, hint: str) -> None:
    """Refuse what would not fit, before anything is allocated; `available`: what is there; unknown counts as enough."""
    if available is not None and needed_bytes > available.size_bytes:
        needed, found = (f"{size_bytes / _MEBIBYTE:.1f} MiB" for size_bytes in (needed_bytes, available.size_bytes))
        raise MemoryShortError(f"memory for {purpose}: expected {needed}, found {found} ({available.source})", hint)


def _read_group(group: Path, limit_name: str, usage_name: str, cache_name: str) -> Available | None:
    limit, usage = _read_number(group / limit_name), _read_number(group / usage_name)
    if limit is None or limit >= _NO_LIMIT_BYTES or usage is None:
        return None
    cache_bytes = _find_number(group / "memory.stat", cache_name + " ") or 0
    return Available(max(0, limit - usage + cache_bytes), f"{group.name or 'cgroup'}/{limit_name}")


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max", or no such file
        return None


def _find_number(path: Path, key: str) -> int | None:
    """The number after a key at the start of a line."""
    try:
        text = "\n" + path.read_text()
    except OSError:
        return None
    _, _, found = text.partition("\n" + key)  # the other fifty lines are not parsed
    word = found.partition("\n")[0].split()
    return int(word[0]) if word and word[0].isdigit() else None


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ENOUGH_BYTES = 200


def used_bytes() -> int:
    """Return how much memory of its own this process uses: resident pages that no file backs; weights are shared."""
    try:
        _, resident, shared = os.pread(_open_statm(os.getpid()), _ENOUGH_BYTES, 0).split()[:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def trim_memory() -> None:
    """Have the C library give freed memory back to the kernel. Small tensors come from arenas that glibc keeps; without
    this a worker stays as large as it ever was. ctypes lets go of the interpreter lock meanwhile."""
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
