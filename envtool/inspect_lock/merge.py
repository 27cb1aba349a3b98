"""Three-way merge of locks, without solver and network.

A package that one side has changed is taken from that side; a package changed differently by both, or one that does not
fit afterwards, is a conflict.
"""

from __future__ import annotations

from collections.abc import Iterator

from envtool.errors import Issue, LockfileError
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile
from envtool.solve.fitting import fits, refusing
from envtool.solve.lock import LockRequest, described
from envtool.spec.environment import package_name

Key = tuple[str, str, str, str]


def merge(base: Lockfile, ours: Lockfile, theirs: Lockfile, request: LockRequest) -> Lockfile:
    """The lock with the changes of both sides.

    Raises:
        LockfileError: Both have changed a package, or the changes do not go together; all that is wrong is in it.
    """
    before, one, other = ({package.sort_key: package for package in lock.packages} for lock in (base, ours, theirs))
    merged: dict[Key, LockedPackage] = {}
    issues: list[Issue] = []
    for key in sorted({*before, *one, *other}):
        was, mine, yours = before.get(key), one.get(key), other.get(key)
        if mine != yours and was not in (mine, yours):
            issues.append(Issue(key[1], f"both sides have changed it: {_shown(mine)} and {_shown(yours)}"))
        chosen = yours if mine == was else mine
        if chosen is not None:
            merged[key] = chosen
    packages = tuple(merged.values())
    issues += list(dict.fromkeys(_misfits(packages, request))) if not issues else []
    if issues:
        raise LockfileError(str(request.lockfile_path), issues)
    return described(request, packages)


def _shown(package: LockedPackage | None) -> str:
    return f"{package.version} {package.build_string or ''}".strip() if package else "removed"


def _misfits(packages: tuple[LockedPackage, ...], request: LockRequest) -> Iterator[Issue]:
    for platform in request.spec.platforms:
        here = {(each.manager, each.name): each for each in packages if each.platform == platform.platform}
        for line in platform.conda:
            if ("conda", package_name(line.text)) not in here:
                yield Issue(line.place, f"{line.text} is in neither lock")
        for package in here.values():
            for line in refusing(platform, package):
                yield Issue(line.place, f"{line.text} does not take {package.name} {package.version}")
            for name, needed in package.dependencies.items() if package.manager == "conda" else ():
                other = here.get(("conda", name))
                if other is None and not name.startswith("__"):
                    yield Issue(package.name, f"it needs {name}, which is not in the lock")
                elif other is not None and not fits(f"{name} {needed}", other):
                    yield Issue(package.name, f"it needs {name} {needed}, which is {other.version}")
