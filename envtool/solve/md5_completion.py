"""Old locks whose packages have only an MD5: each gets the sha256 of its channel's record with that MD5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from envtool.lockfile.conda_lock_v1 import Lockfile, read_lockfile


def read_complete(path: Path, *, is_offline: bool = False) -> Lockfile:
    """Read a lock whose packages are about to be proven, offline by the records here. Raises as `read_lockfile`."""
    lockfile = read_lockfile(path)
    wanting = [each for each in lockfile.packages if each.manager == "conda" and each.md5 and each.sha256 is None]
    if not wanting:
        return lockfile
    from envtool.solve.conda_solver import records_of

    found = {(each.url, each.md5): each.sha256 for each in records_of(wanting, is_offline=is_offline) if each.sha256}
    packages = (
        replace(each, sha256=found.get((each.url, each.md5))) if each.sha256 is None else each
        for each in lockfile.packages
    )
    return replace(lockfile, packages=tuple(packages))
