"""The control groups that limit this process: its own and those above it, since each one limits those below.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/cgroups.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Group(NamedTuple):
    """A control group.

    Args:
        path: its directory, which need not exist: in a container it may be the host's path, and only the mount is ours.
        is_v2: whether it is one of cgroup v2, whose files have other names.
    """

    path: Path
    is_v2: bool


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
