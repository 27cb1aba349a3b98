"""A user of envtool, and channels that were made by hand."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.functional.prefix.conftest import User
from tests.support.archives import Archive

ENVIRONMENT = """\
name: small
channels: [{channel}]
platforms: [linux-64]
dependencies:
{dependencies}
"""


def write_channel(root: Path, archives: Sequence[Archive]) -> str:
    """A channel of some archives with its index; returns its URL."""
    records = {}
    for archive in archives:
        path = archive.write(root)
        content = path.read_bytes()
        index = json.loads(archive.info()["info/index.json"])
        hashes = {name: hashlib.new(name, content).hexdigest() for name in ("md5", "sha256")}
        records[path.name] = {**index, **hashes, "size": len(content)}
    for subdir in ("linux-64", "noarch"):
        (root / subdir).mkdir(exist_ok=True)
        packages = records if subdir == "linux-64" else {}
        index = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": packages}
        (root / subdir / "repodata.json").write_text(json.dumps(index))
    return root.as_uri()


def write_environment(directory: Path, channel: str, *specs: str) -> Path:
    """An environment.yml in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "environment.yml"
    path.write_text(ENVIRONMENT.format(channel=channel, dependencies="\n".join(f"  - {spec}" for spec in specs)))
    return path


@contextmanager
def new_user() -> Iterator[User]:
    """A user for longer than one test."""
    # Not tmp_path, which is longer than the path of an environment may be.
    with tempfile.TemporaryDirectory(prefix="envtool-") as home:
        yield User(Path(home).resolve())


@pytest.fixture
def user() -> Iterator[User]:
    with new_user() as found:
        yield found


def run_envtool(user: User, directory: Path, *arguments: object, code: int = 0, **env: str) -> tuple[str, str]:
    """Run envtool in a directory; the exit code must be the expected one. Returns both outputs."""
    done = subprocess.run(
        [sys.executable, "-m", "envtool", *(str(argument) for argument in arguments)],
        cwd=directory, env={**user.env, **env}, text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr
