"""The directory of a service: its releases, which of them is current, the copies of its application, the notes.

    <root>/start, gunicorn.conf.py     written once from templates, then the user's
    <root>/app/                        code and settings of the next release
    <root>/checkpoints/, store/        what the trainer publishes, what the server keeps
    <root>/app-<id>/                   code and settings of a release, copied from app/
    <root>/envs/<lock id>/             environments; their paths are written into their files
    <root>/releases/<digest>/          env -> ../../envs/<lock id>, app -> ../../app-<id>, activate.sh, release.json
                                       (written last)
    <root>/current                     -> releases/<digest>
    <root>/releases.json               the digests in the order in which they were applied
    <root>/run/                        what processes tell each other; empty after a restart of the machine is fine

Out of scope: what to do with it (`envtool.deploy.apply`).

The copy lies beside the directory that it was made from (`app-<id>` beside `app`), so that `../checkpoints` in its
settings means the same. Left out: byte-code, and what git keeps. Links are copied as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from envtool import file_lock
from envtool.atomic_files import sync_directory, write_atomically
from envtool.errors import DeployError
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.prefix import scan

_RELEASE = "release.json"
_ID_LENGTH = 16
_APPLICATION = re.compile(rf"app-[0-9a-f]{{{_ID_LENGTH}}}")


@dataclass(frozen=True)
class Release:
    """One environment with one application, which are served together."""

    env_digest: str
    app_digest: str | None
    lock_id: str  # the name of its environment's directory under envs/, which follows from the lock
    package_count: int
    made: str  # when it was made, as `2026-11-22T15:00:00Z`

    @property
    def digest(self) -> str:
        """Its name, which follows from all that it holds."""
        return hashlib.sha256(f"{self.env_digest}\n{self.app_digest or ''}\n".encode()).hexdigest()


class ReleaseDirectory:
    """The directory of a service."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.start = self.path / "start"
        self.run = self.path / "run"
        self.trial = self.run / "trial"
        self.environments = self.path / "envs"
        self._releases = self.path / "releases"
        self._current = self.path / "current"
        self._order = self.path / "releases.json"

    def lay_out(self) -> None:
        """Make the directories that are missing."""
        for each in (self.run, self.environments, self._releases):
            each.mkdir(parents=True, exist_ok=True)
        for name in ("app", "checkpoints", "store"):
            (self.path / name).mkdir(exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory alone; a second process waits, and prints that it does."""
        with ExitStack() as stack:
            try:
                self.lay_out()
                stack.enter_context(file_lock.hold(self.run / ".deploy.lock", self.path))
            except OSError as error:
                hint = "run this as the user that owns the directory, which is the service's own"
                raise DeployError(f"{error.filename or self.path} cannot be written: {error.strerror}", hint) from error
            yield

    def releases(self) -> dict[str, Release]:
        """The whole releases by digest, in the order in which they were applied; first those that never were."""
        found = {path.parent.name: path for path in self._releases.glob(f"*/{_RELEASE}")}
        applied = [each for each in self.order() if each in found]
        order = [*sorted(found.keys() - set(applied)), *applied]
        return {each: Release(**json.loads(found[each].read_bytes())) for each in order}

    def directory(self, digest: str) -> Path:
        """Where a release is."""
        return self._releases / digest

    def application(self, app_digest: str) -> Path:
        """Where the code and the settings of a release are."""
        return self.path / f"app-{app_digest[:_ID_LENGTH]}"

    def applications(self) -> list[Path]:
        """The code and settings of all releases, and what earlier ones left."""
        return [path for path in self.path.glob("app-*") if _APPLICATION.fullmatch(path.name)]

    def current(self) -> str | None:
        """The digest of the current release; None before the first."""
        try:
            return self._current.readlink().name
        except FileNotFoundError:
            return None

    def set_current(self, digest: str | None) -> None:
        """Make a release the current one: a reader sees the old one or the new one, through any crash."""
        if digest is None:
            self._current.unlink(missing_ok=True)
        elif digest != self.current():
            temporary = self.path / ".current.tmp"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(Path("releases") / digest)
            temporary.replace(self._current)
        sync_directory(self.path)

    def order(self) -> list[str]:
        """The digests in the order in which they were applied, the newest last."""
        return list(json.loads(self._order.read_bytes())) if self._order.exists() else []

    def note_applied(self, digest: str, previous: str | None) -> None:
        """Put a release after the one that it replaced; what came after that was rolled back from: to the front."""
        order = [each for each in self.order() if each != digest]
        end = order.index(previous) + 1 if previous in order else len(order)
        write_atomically(self._order, json.dumps([*order[end:], *order[:end], digest], indent=1) + "\n")

    def add(self, release: Release, activation: str) -> None:
        """Make an environment and an application a release."""
        directory = self.directory(release.digest)
        directory.mkdir(exist_ok=True)
        links = {"env": self.environments / release.lock_id}
        if release.app_digest is not None:
            links["app"] = self.application(release.app_digest)
        for name, target in links.items():
            (directory / name).unlink(missing_ok=True)
            (directory / name).symlink_to(Path("../..") / target.relative_to(self.path))
        write_atomically(directory / "activate.sh", activation)
        write_atomically(directory / _RELEASE, json.dumps(asdict(release), indent=1) + "\n")

    def forget(self, digest: str) -> None:
        """Remove a release, not what it links to; one that is removed half way is no release any more."""
        directory = self.directory(digest)
        (directory / _RELEASE).unlink(missing_ok=True)
        shutil.rmtree(directory)


def lock_id(platform: str, packages: Sequence[LockedPackage]) -> str:
    """A name for the packages of a lock for one platform: it follows from the packages and their hashes alone."""
    lines = sorted(f"{package.manager} {package.name} {package.version} {package.sha256}" for package in packages)
    return hashlib.sha256("\n".join([platform, *lines]).encode()).hexdigest()[:_ID_LENGTH]


_LEFT_OUT = ("__pycache__", "*.pyc", ".git")
_READ_ONLY = 0o555


def take(root: ReleaseDirectory, source: Path | None) -> str | None:
    """Copy an application into a service, unless it is there already: `source`, or else `app` of the service unless
    that is empty. Returns the digest of its content, None without one. Raises DeployError if it cannot be copied."""
    place = source or root.path / "app"
    if source is None and not any(place.glob("*")):
        return None
    copy = root.path / ".app.tmp"
    _remove(copy)
    try:
        shutil.copytree(place, copy, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    except (OSError, shutil.Error) as error:
        # copytree collects its errors; the first is enough to go by.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        hint = "it has to hold files and directories only"
        raise DeployError(f"{place} cannot be copied: {reason}", hint) from error
    for path in copy.rglob("*"):
        # On the disk before the directory has its name, and nothing to be edited in place.
        if not path.is_symlink() and not path.is_dir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), path.stat().st_mode & _READ_ONLY)
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
    used = {root.application(release.app_digest) for release in root.releases().values() if release.app_digest}
    for application in set(root.applications()) - used:
        shutil.rmtree(application)


def _digest(directory: Path) -> str:
    entries = scan.scan(directory, {}).values()
    # What a server without a read-only file system compiled meanwhile is no part of it.
    return scan.env_digest(entry for entry in entries if "__pycache__" not in entry.path.split("/"))


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
