"""The type of the file system that a directory is on, and whether file events come from it.

The kernel reports what this machine does to a file. What another machine does to a network file system it does not
report, so events would be silently missing there (watchdog#504, #409).
"""

from __future__ import annotations

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = frozenset(
    "nfs nfs4 cifs smb3 smbfs 9p virtiofs ceph glusterfs lustre afs beegfs gpfs orangefs vboxsf prl_fs".split()  # noqa: SIM905
)


def find_type(mounts: str, path: str) -> str | None:
    """Find the type of the file system that holds a path.

    Args:
        mounts: the text of `/proc/self/mountinfo`; see proc_pid_mountinfo(5).

    Returns:
        The type, for example `ext4`, or `None` when no mount fits.
    """
    best, found = -1, None
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5 or not after.split():
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), fields[4])
        is_inside = path == point or path.startswith(point.rstrip("/") + "/")
        # A later line covers an earlier one with the same mount point.
        if is_inside and len(point) >= best:
            best, found = len(point), after.split()[0]
    return found


def is_remote(fstype: str | None) -> bool:
    """Whether other machines may write to such a file system."""
    return fstype is not None and (fstype in _REMOTE or fstype.startswith("fuse"))


def type_of(directory: Path) -> str | None:
    """Return the type of the file system that a directory is on, or `None` where it is unknown."""
    try:
        return find_type(_MOUNTS.read_text(encoding="utf-8", errors="surrogateescape"), str(directory.resolve()))
    except (OSError, RuntimeError):
        return None
