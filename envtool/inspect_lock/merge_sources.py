"""Merge of locks during a git merge, when the sources are not merged yet.

The commit that brought a lock has its sources; those of the three locks are merged line by line, as git does.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from envtool import subprocesses
from envtool.errors import EnvtoolError, ProcessError
from envtool.inspect_lock.merge import merge
from envtool.lockfile.conda_lock_v1 import Lockfile, read_lockfile
from envtool.scratch import scratch_directory
from envtool.solve import refresh


def merged(base: Path, ours: Path, theirs: Path, path: str) -> Lockfile:
    """The merged lock.

    Args:
        base: the file with the lock that both sides were made from, as git's `%O`.
        path: the path of the lock in the repository, whose root is the working directory.

    Raises:
        EnvtoolError: A lock or its sources cannot be downloaded, or they cannot be merged.
    """
    files = (base, ours, theirs)
    before, one, other = (read_lockfile(each) for each in files)
    commits = [_commit_of(each, path) for each in files]
    sources = sorted({*before.sources, *one.sources, *other.sources})
    with scratch_directory() as scratch:
        for source in sources:
            _merge_source(scratch, str(PurePosixPath(path).parent / source), commits)
        target = scratch / path
        target.parent.mkdir(parents=True, exist_ok=True)
        was, mine, yours = (refresh.recorded_options(each) for each in (before, one, other))
        given = mine if yours == was else yours
        request = refresh.request([target.parent / each for each in one.sources], target, one, given)
        return merge(before, one, other, request)


def _commit_of(lock: Path, path: str) -> str:
    """The commit that brought a lock."""
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
