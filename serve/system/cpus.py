"""The processor cores that this process may use: fewer than the machine has, in a container or under taskset.

Source: cgroup v2 "CPU Interface Files" (cpu.max), cgroup v1 CFS bandwidth control (cpu.cfs_quota_us).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from serve.system.cgroups import groups_of

_ROOT = Path("/")


def count_cores(root: Path = _ROOT) -> int:
    """Count the cores that this process may use, at least one."""
    has_affinity = hasattr(os, "sched_getaffinity")
    allowed = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min([allowed, *(math.floor(quota) for quota in _quotas(root))]))


def threads_of_an_operation(cores: int, workers: int, environ: Mapping[str, str]) -> int:
    """Choose how many threads one torch operation uses in each worker.

    More than there are cores for costs more than it brings: on two cores, two threads in each of two workers halved the
    rate.

    Args:
        environ: the environment variables; `OMP_NUM_THREADS` is the user's word.
    """
    stated = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    return max(1, cores // workers)


def _quotas(root: Path) -> Iterator[float]:
    """The limits of the process's group and of those above it, in cores."""
    for group in groups_of("cpu", root):
        quota = _read_v2(group.path) if group.is_v2 else _read_v1(group.path)
        if quota is not None:
            yield quota


def _read_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _read_v1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        return None if quota < 0 else quota / int((group / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
