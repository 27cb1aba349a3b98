"""Old locks whose packages have only an MD5: each gets the sha256 in its channel's record with that very MD5.

A package without such a record stays as it is, and is refused where a proof is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from envtool.errors import EnvtoolError
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile, read_lockfile


def read_complete(path: Path, *, is_offline: bool = False) -> Lockfile:
    """Read a lock whose packages are about to be proven.

    Args:
        is_offline: whether the records that this machine keeps have to do.

    Raises:
        MissingFileError, LockfileError: As `read_lockfile` does.
    """
    lockfile = read_lockfile(path)
    wanting = [each for each in lockfile.packages if each.manager == "conda" and each.md5 and each.sha256 is None]
    if not wanting:
        return lockfile
    found = _from_records(wanting, is_offline)
    packages = (
        replace(each, sha256=found.get((each.url, each.md5))) if each.sha256 is None else each
        for each in lockfile.packages
    )
    return replace(lockfile, packages=tuple(packages))


def _from_records(packages: Sequence[LockedPackage], is_offline: bool) -> Mapping[tuple[str, str | None], str]:
    from envtool import paths
    from envtool.mirrors import mirrors
    from envtool.solve.conda_solver import Repodata

    by_place: dict[tuple[str, str], set[str]] = {}
    for each in packages:
        channel, subdir, _ = each.url.rsplit("/", 2)
        by_place.setdefault((channel, each.platform if subdir == "noarch" else subdir), set()).add(each.name)
    repodata = Repodata(paths.repodata_cache(), mirrors.configured(), is_offline=is_offline)
    found = {}
    for (channel, platform), names in by_place.items():
        try:
            records = repodata.find([channel], platform, sorted(names))
        except EnvtoolError:
            continue  # then the packages are refused, each by its name
        found.update({(each.url, each.md5): each.sha256 for each in records if each.sha256})
    return found
