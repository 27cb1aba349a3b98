"""Wheels for the channel: one from the package index by its hash, one from our own checkout, both by pip, whose
configuration applies. The checkout is copied first, so that the wheel is made of exactly the bytes that were hashed."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from envtool import subprocesses
from envtool.console import Task
from envtool.errors import MissingFileError, ProcessError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.downloader import fetch

_PIP_HINT = "check that pip reaches a package index on this machine: python -m pip download --no-deps pip"
_NOT_SOURCES = ("__pycache__", "*.pyc", ".*_cache")


def download(name: str, version: str, sha256: str, cache: Cache, scratch: Path, progress: Task) -> Path:
    """A pure-Python wheel by its hash, from the cache or from pip's index. Raises ProcessError if pip failed."""
    wanted = Wanted(f"{name.replace('-', '_')}-{version}-py3-none-any.whl", sha256, ())
    found = cache.find(wanted)
    if found:
        progress.advance(found.stat().st_size)
        return found
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(scratch), "-r"]
    _pip(["download", *options, str(requirements)])
    from_pip = Wanted(wanted.name, sha256, (_one_wheel(scratch).as_uri(),))
    return fetch([from_pip], cache, progress)[from_pip]


def snapshot(root: Path, inputs: Sequence[str], target: Path) -> str:
    """Copy what a wheel is made of, and hash the copy. Raises MissingFileError if an input is not found."""
    missing = [name for name in inputs if not (root / name).exists()]
    if missing:
        raise MissingFileError(f"the checkout {root} has no {', '.join(missing)}", "clone it again")
    for name in inputs:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_dir():
            shutil.copytree(root / name, place, ignore=shutil.ignore_patterns(*_NOT_SOURCES), dirs_exist_ok=True)
        else:
            shutil.copy(root / name, place)
    digest = hashlib.sha256()
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        is_executable = bool(path.stat().st_mode & 0o100)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(json.dumps([str(path.relative_to(target)), is_executable, content]).encode())
    return digest.hexdigest()


def build(snapshot_dir: Path, scratch: Path) -> Path:
    """Make the wheel of a copied checkout. Raises ProcessError if the build backend failed."""
    # The wheel's own times do not reach the package, but a build that reads the clock has no business here.
    env = {"SOURCE_DATE_EPOCH": "315619200", "PYTHONHASHSEED": "0"}
    _pip(["wheel", "--no-deps", "--wheel-dir", str(scratch), str(snapshot_dir)], env)
    return _one_wheel(scratch)


def _pip(arguments: Sequence[str], env: dict[str, str] | None = None) -> None:
    base = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    subprocesses.run([*base, *arguments], env=env, hint=_PIP_HINT)


def _one_wheel(directory: Path) -> Path:
    found = sorted(directory.glob("*.whl"))
    if len(found) != 1:
        raise ProcessError("pip", 0, f"expected 1 wheel in {directory}, found {len(found)}", _PIP_HINT)
    return found[0]
