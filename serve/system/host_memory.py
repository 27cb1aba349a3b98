"""The memory that this process may still take: what the kernel states, and what its control groups leave.

Read from /proc/meminfo and from cgroup v2 or v1. Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serve.errors import MemoryShortError
from serve.system.cgroups import groups_of

_ROOT = Path("/")
# The limit, what is used, and the part of the file cache that the kernel gives up before it kills anybody.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
# What v1 states for "none" is the largest number of pages that it can count, in bytes.
_NO_LIMIT_BYTES = 1 << 60
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Available:
    """Memory that can still be taken."""

    size_bytes: int
    source: str


def read_available(root: Path = _ROOT) -> Available | None:
    """Read how much memory this process may still take.

    Returns:
        The tightest of all limits; `None` on a system that states none.
    """
    found = (_read_group(group.path, *(_V2 if group.is_v2 else _V1)) for group in groups_of("memory", root))
    limits = [limit for limit in (_read_meminfo(root), *found) if limit is not None]
    return min(limits, key=lambda limit: limit.size_bytes, default=None)


def require(needed_bytes: int, available: Available | None, purpose: str, hint: str) -> None:
    """Refuse what would not fit, before anything is allocated.

    Args:
        available: what is there; unknown counts as enough.
    """
    if available is not None and needed_bytes > available.size_bytes:
        raise MemoryShortError(
            f"memory for {purpose}: expected {_show(needed_bytes)}, found {_show(available.size_bytes)} "
            f"({available.source})",
            hint=hint,
        )


def _show(size_bytes: int) -> str:
    return f"{size_bytes / _MEBIBYTE:.1f} MiB"


def _read_meminfo(root: Path) -> Available | None:
    kibibytes = _find_number(root / "proc" / "meminfo", "MemAvailable:")
    return None if kibibytes is None else Available(kibibytes * 1024, "MemAvailable")


def _read_group(group: Path, limit_name: str, usage_name: str, cache_name: str) -> Available | None:
    limit = _read_number(group / limit_name)
    if limit is None or limit >= _NO_LIMIT_BYTES:
        return None
    usage = _read_number(group / usage_name)
    if usage is None:
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
    # Every candidate is preceded by this, in every worker: the other fifty lines are not parsed.
    _, _, found = text.partition("\n" + key)
    word = found.partition("\n")[0].split()
    return int(word[0]) if word and word[0].isdigit() else None
