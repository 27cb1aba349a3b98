"""Locks from files and from git revisions."""

from __future__ import annotations

from pathlib import Path

from envtool import subprocesses
from envtool.errors import MissingFileError, ProcessError
from envtool.lockfile.conda_lock_v1 import Lockfile, parse_lockfile, read_lockfile


def read_revision(text: str, default: Path) -> Lockfile:
    """The lock that a user means by a path, a git revision, or `REVISION:PATH`.

    Args:
        text: what the user wrote; a file of that name comes before a revision.
        default: the path whose revision is meant when only a revision is named.

    Raises:
        MissingFileError: It is neither a file nor a revision that has one.
        LockfileError: It is malformed.
    """
    if Path(text).exists():
        return read_lockfile(Path(text))
    revision, _, path = text.partition(":")
    file = Path(path) if path else default
    directory = file.parent if file.is_absolute() else Path.cwd() / file.parent
    try:
        # `./` makes git look from the directory that it runs in, not from the root of the repository.
        content = subprocesses.run(["git", "show", f"{revision}:./{file.name}"], cwd=directory)
    except (ProcessError, OSError) as error:
        reason = error.output.strip() if isinstance(error, ProcessError) else str(error)
        raise MissingFileError(
            f"{text!r} is no file, and git has no {file.name} in such a revision: {reason}",
            "name a lockfile, a revision such as HEAD~1, or REVISION:PATH",
        ) from error
    return parse_lockfile(f"{revision}:{file}", content)
