"""Conda packages and wheels that bring the same Python distribution, found before anything of a prefix is touched.

The wheel's installer would take the files of conda's away, whatever the package is called. A lock that envtool makes
has no such pair unless a name did not tell; one of another tool may have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from envtool.artifacts.download import require_sha256
from envtool.errors import Issue, LockfileError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.lockfile.model import LockedPackage
from envtool.pypi.distributions import distributions_in, normalize

_HINT = (
    "run envtool lock again where these archives are in the cache, as they are now: it reads in them what they bring; "
    "or take the conda package or the requirement out of environment.yml"
)


def refuse_collisions(wanted: Sequence[LockedPackage], proven: Mapping[str, Path], cache: Cache) -> None:
    """Refuse a lock of which two packages bring one distribution.

    Raises:
        LockfileError: there is such a pair; all are listed.
        ArchiveError: an archive is not valid.
    """
    wheels = {normalize(each.name): each for each in wanted if each.manager == "pip"}
    issues = list(_collisions(wanted, wheels, proven, cache)) if wheels else []
    if issues:
        raise LockfileError("the lock", issues, _HINT)


def _collisions(
    wanted: Sequence[LockedPackage], wheels: Mapping[str, LockedPackage], proven: Mapping[str, Path], cache: Cache
) -> Iterator[Issue]:
    for each in wanted:
        if each.manager != "conda":
            continue
        path = proven.get(each.url) or cache.path(Wanted(each.file_name, require_sha256(each), ()))
        for name, version in sorted(distributions_in(path).items()) if path.is_file() else ():
            if name in wheels:
                found = f"it brings the Python distribution {name} {version}, and so does {wheels[name].file_name}"
                yield Issue(f"{each.name} {each.version}", found)
