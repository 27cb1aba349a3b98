"""Three-way merge of locks, without solver and network, also during a git merge. A package changed differently by both
sides, or one that does not fit afterwards, is a conflict. Sources are those of the commits that brought the locks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from envtool import subprocesses
from envtool.errors import EnvtoolError, Issue, LockfileError, ProcessError
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile, read_lockfile
from envtool.scratch import scratch_directory
from envtool.solve import staleness
from envtool.solve.lock import LockRequest, described, fits, refusing
from envtool.spec.environment import package_name

Key = tuple[str, str, str, str]


def merge(base: Lockfile, ours: Lockfile, theirs: Lockfile, request: LockRequest) -> Lockfile:
    """The lock with the changes of both sides. Raises LockfileError with all that does not go together."""
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
    issues += list(dict.fromkeys(_misfits(replace(ours, packages=packages), request))) if not issues else []
    if issues:
        raise LockfileError(str(request.lockfile_path), issues)
    return described(request, packages)


def _shown(package: LockedPackage | None) -> str:
    return f"{package.version} {package.build_string or ''}".strip() if package else "removed"


def _misfits(lockfile: Lockfile, request: LockRequest) -> Iterator[Issue]:
    for platform in request.spec.platforms:
        here = lockfile.of(platform.platform)
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


def merged(base: Path, ours: Path, theirs: Path, path: str) -> Lockfile:
    """The merged lock; `base` is git's `%O`, `path` that of the lock in the repository, whose root is the working
    directory. Raises EnvtoolError if a lock or its sources cannot be read or merged."""
    files = (base, ours, theirs)
    before, one, other = (read_lockfile(file) for file in files)
    commits = [_commit_of(each, path) for each in files]
    sources = sorted({*before.sources, *one.sources, *other.sources})
    with scratch_directory() as scratch:
        for source in sources:
            _merge_source(scratch, str(PurePosixPath(path).parent / source), commits)
        target = scratch / path
        target.parent.mkdir(parents=True, exist_ok=True)
        was, mine, yours = (staleness.recorded_options(each) for each in (before, one, other))
        given = mine if yours == was else yours
        request = staleness.request([target.parent / each for each in one.sources], target, one, given)
        return merge(before, one, other, request)


def _commit_of(lock: Path, path: str) -> str:
    blob = subprocesses.run(["git", "hash-object", str(lock.absolute())]).strip()
    found = subprocesses.run(["git", "log", "--all", "--format=%H", f"--find-object={blob}", "--", path]).split()
    for commit in [*found, "HEAD"]:
        try:
            if subprocesses.run(["git", "rev-parse", f"{commit}:{path}"]).strip() == blob:
                return commit
        except ProcessError:
            continue  # the commit that took it away
    raise EnvtoolError(f"no commit has this {path}, so that its sources are not known")


def _merge_source(scratch: Path, source: str, commits: list[str]) -> None:
    texts = []
    for number, commit in enumerate(commits):
        file = scratch / f"{number}"
        try:
            file.write_text(subprocesses.run(["git", "show", f"{commit}:{source}"]), encoding="utf-8")
        except ProcessError:
            file.write_text("", encoding="utf-8")
        texts.append(file)
    base, ours, theirs = texts
    try:
        subprocesses.run(["git", "merge-file", str(ours), str(base), str(theirs)])
    except ProcessError as error:
        raise EnvtoolError(f"{source} has conflicts") from error
    target = scratch / source
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ours, target)
