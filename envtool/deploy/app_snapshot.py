"""The application's own code and settings as a part of a release: a copy of a directory, named by its content.

The copy lies beside the directory that it was made from (`app-<id>` beside `app`), so that `../checkpoints` in its
settings means the same. Left out: byte-code, and what git keeps. Links are copied as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from envtool.atomic_files import sync_directory
from envtool.deploy.release_directory import ReleaseDirectory
from envtool.errors import DeployError
from envtool.prefix import scan

_LEFT_OUT = ("__pycache__", "*.pyc", ".git")
_READ_ONLY = 0o555


def take(root: ReleaseDirectory, source: Path | None) -> str | None:
    """Copy an application into a service, unless it is there already.

    Args:
        source: the directory of the application; None means `app` of the service, unless that is empty.

    Returns:
        The digest of its content; None when the service has no application.

    Raises:
        DeployError: it is not found, or cannot be copied.
    """
    place = source or root.path / "app"
    if source is None and not any(place.glob("*")):
        return None
    copy = root.path / ".app.tmp"
    _remove(copy)
    _copy(place, copy)
    digest = _digest(copy)
    target = root.application(digest)
    if target.is_dir() and _digest(target) == digest:
        _remove(copy)
        return digest
    # One that somebody has edited gives way: its name says what it holds.
    if target.is_dir():
        target.rename(root.path / ".app.old.tmp")
    copy.rename(target)
    sync_directory(root.path)
    _remove(root.path / ".app.old.tmp")
    return digest


def clean(root: ReleaseDirectory) -> None:
    """Remove the applications that no release has."""
    used = {root.application(each.app_digest) for each in root.releases().values() if each.app_digest}
    for each in root.applications():
        if each not in used:
            _remove(each)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    except (OSError, shutil.Error) as error:
        # copytree collects its errors; the first is enough to go by.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        hint = "it has to hold files and directories only"
        raise DeployError(f"{source} cannot be copied: {reason}", hint) from error
    for directory, _, names in os.walk(target):
        for name in names:
            _settle(Path(directory) / name)


def _settle(path: Path) -> None:
    # On the disk before the directory has its name, and nothing to be edited in place.
    if path.is_symlink():
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), path.stat().st_mode & _READ_ONLY)


def _digest(directory: Path) -> str:
    entries = scan.scan(directory, {}).values()
    # What a server without a read-only file system compiled meanwhile is no part of it.
    return scan.env_digest(each for each in entries if "__pycache__" not in each.path.split("/"))


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
