"""A real channel, and real prefixes made from it by py-rattler.

Everything runs from a copy of the checkout, so that nobody who edits the tree meanwhile changes what is built. The
downloads go to the user's cache, outside of the clone, as for any user.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from envtool import file_lock

ROOT = Path(__file__).parents[3]
INPUTS = ("pyproject.toml", "README.md", "LICENSE", "envtool", "serve", "templates", "examples", "channel")

# os._exit, because py-rattler may crash while the interpreter shuts down.
INSTALL = """
import asyncio, os, sys
from pathlib import Path
import rattler
url, prefix, cache = sys.argv[1:4]
async def main():
    records = await rattler.solve(
        sources=[url], specs=[rattler.MatchSpec(name) for name in sys.argv[4:]], platforms=["linux-64", "noarch"],
        gateway=rattler.Gateway(cache_dir=Path(cache) / "repodata"),
        virtual_packages=[rattler.GenericVirtualPackage(
            rattler.PackageName("__glibc"), rattler.Version("2.29"), getattr(rattler, "BuildString", str)("0"))],
    )
    await rattler.install(records, target_prefix=prefix, cache_dir=Path(cache) / "pkgs", show_progress=False)
asyncio.run(main())
sys.stdout.flush()
os._exit(0)
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the working tree, from which envtool runs."""

    root: Path

    def start(self, *arguments: str, umask: int = 0o022, seed: str = "0") -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(self.root), "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "envtool", "channel", "build", *arguments],
            env=env,
            cwd=self.root.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.umask(umask) and None,
        )

    def build(self, channel: Path, *recipes: str, umask: int = 0o022, seed: str = "0") -> dict[str, Any]:
        process = self.start(*recipes, "--output", str(channel), "--json", umask=umask, seed=seed)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return dict(json.loads(out))


def copy_checkout(target: Path) -> Checkout:
    """The working tree at another place."""
    for name in INPUTS:
        source, place = ROOT / name, target / name
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    return Checkout(target)


@dataclass(frozen=True)
class Channel:
    path: Path
    report: dict[str, Any]

    def archive(self, name: str) -> Path:
        return next(self.path / package["path"] for package in self.report["packages"] if package["name"] == name)


def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of one run of pytest share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def shared_channel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, Channel]:
    """The channel, and what it was built from: made once in a run, by the process that asks first."""
    root = shared_directory(tmp_path_factory) / "embedded"
    report, tree, place = root / "report.json", root / "checkout" / "tree", root / "with space"
    root.mkdir(exist_ok=True)
    with file_lock.hold(root / "lock", root):
        if not report.exists():
            shutil.rmtree(tree, ignore_errors=True)
            report.write_text(json.dumps(copy_checkout(tree).build(place)))
    return Checkout(tree), Channel(place, json.loads(report.read_text()))


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return shared_channel(tmp_path_factory)[0]


@pytest.fixture
def other_checkout(tmp_path: Path) -> Checkout:
    """One that a test may edit."""
    return copy_checkout(tmp_path / "other" / "tree")


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Channel:
    return shared_channel(tmp_path_factory)[1]


def install(channel: Channel, prefix: Path, *specs: str) -> Path:
    cache = prefix.parent / "cache"
    argv = [sys.executable, "-c", INSTALL, channel.report["url"], str(prefix), str(cache), *specs]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return prefix


PLACES = ["one", pytest.param("another/much deeper/place", marks=pytest.mark.nightly)]


@pytest.fixture(scope="session", params=PLACES)
def prefix(request: pytest.FixtureRequest, channel: Channel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A created environment; nightly in a second directory as well."""
    path = tmp_path_factory.mktemp("envs") / request.param
    path.parent.mkdir(parents=True, exist_ok=True)
    return install(channel, path, "python", "pip", "envserve")
