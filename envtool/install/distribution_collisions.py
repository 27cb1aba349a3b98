"""Packages that bring the same Python distribution: a conda package and a wheel are refused before a prefix is touched,
since the wheel's installer would take conda's files away. Locks of other tools may have such pairs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import Declared
from envtool.errors import Issue, LockfileError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.lockfile.model import LockedPackage
from envtool.pypi.distributions import distributions_in

_HINT = (
    "run envtool lock again where these archives are in the cache, as they are now: it reads in them what they bring; "
    "or take the conda package or the requirement out of environment.yml"
)
_METADATA = re.compile(r"(?:^|/)site-packages/([^/]+)-([^/-]+)\.dist-info/METADATA")


def refuse_collisions(wanted: Sequence[LockedPackage], proven: Mapping[str, Path], cache: Cache) -> None:
    """Raise LockfileError, with all of them, if a conda package and a wheel bring one distribution."""
    wheels: dict[str, LockedPackage] = {canonicalize_name(e.name): e for e in wanted if e.manager == "pip"}
    issues = []
    for each in [package for package in wanted if package.manager == "conda"] if wheels else ():
        path = proven.get(each.url) or cache.path(Wanted(each.file_name, require_sha256(each), ()))
        brought = distributions_in(path) if path.is_file() else {}
        for name in sorted(brought.keys() & wheels.keys()):
            both = f"the Python distribution {name} {brought[name]}, and so does {wheels[name].file_name}"
            issues.append(Issue(f"{each.name} {each.version}", f"it brings {both}"))
    if issues:
        raise LockfileError("the lock", issues, _HINT)


def brought_twice(declared: Mapping[str, Declared]) -> list[str]:
    """A line for each Python distribution of which two conda packages bring a version each: pip sees one of them."""
    found: dict[str, list[str]] = {}
    for path in sorted(each for each in declared if each.endswith(".dist-info/METADATA")):
        manager, name = declared[path].package
        if manager == "conda" and (match := _METADATA.search(path)):
            found.setdefault(canonicalize_name(match[1]), []).append(f"{name} ({match[2]})")
    twice = {name: each for name, each in found.items() if len(each) > 1}
    return [f"the Python distribution {name} is brought by {' and '.join(each)}" for name, each in twice.items()]
