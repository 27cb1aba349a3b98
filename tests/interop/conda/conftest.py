"""A real conda and envtool beside it: one home, one channel on the loopback interface, one cache."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage, format_lockfile, read_lockfile
from tests.functional.channel.conftest import shared_channel
from tests.functional.prefix.conftest import User
from tests.support.archives import Archive, File
from tests.support.real_conda import Conda, find_conda
from tests.support.repodata_server import serving
from tests.support.wheels import locked_wheel, write_wheel

# tool needs library and data; of the two only data is asked for as well.
ARCHIVES = [
    Archive("tool", {"bin/tool": File(b"#!/bin/sh\necho 1\n", 0o755)}, depends=("library", "data")),
    Archive("tool", {"bin/tool": File(b"#!/bin/sh\necho 2\n", 0o755)}, "2.0", depends=("library", "data")),
    Archive("library", {"lib/libx.so.1": File(b"library", 0o755), "lib/libx.so": File(link="libx.so.1")}),
    Archive("data", {"share/data": File(b"data\n")}, subdir="noarch", noarch="generic"),
    Archive(
        "pure",
        {"site-packages/pure/__init__.py": File(b"def main():\n    print('pure')\n")},
        depends=("python >=3.9",),
        subdir="noarch",
        noarch="python",
        entry_points=("pure = pure:main",),
    ),
    Archive(
        "more",
        {"site-packages/more/__init__.py": File(b"X = 1\n")},
        depends=("python >=3.9",),
        subdir="noarch",
        noarch="python",
    ),
]
SPECS = ("python=3.9", "pip", "tool=1.0", "data", "pure")
SPEC = """\
channels: [{channel}]
platforms: [linux-64]
virtual-packages: {{linux-64: {{__glibc: "2.29"}}}}
variables: {{ANSWER: "42", SPACED: "a b"}}
dependencies: [{dependencies}]
"""


@dataclass(frozen=True)
class Desk:
    """A user who has envtool and conda, and the channel that both install from."""

    user: User
    conda: Conda
    channel: str
    wheel: LockedPackage

    def lock(self, *specs: str, has_wheel: bool = True) -> list[LockedPackage]:
        """Lock these; the lock lies where envtool looks for it."""
        text = SPEC.format(channel=self.channel, dependencies=", ".join(specs))
        (self.user.home / "environment.yml").write_text(text)
        self.user.run("lock")
        path = self.user.home / "conda-lock.yml"
        lock = read_lockfile(path)
        if has_wheel:
            lock = replace(lock, packages=(*lock.packages, self.wheel))
            path.write_text(format_lockfile(lock))
        return list(lock.packages)

    def create(self, prefix: Path, *options: str) -> str:
        """Make an environment of the lock; its env digest."""
        return str(json.loads(self.user.run("create", "-p", prefix, *options, "--json").stdout)["env_digest"])

    def findings(self, prefix: Path) -> list[str]:
        """What verify finds, each as its kind and what it is about."""
        done = json.loads(self.user.run("verify", "-p", prefix, "--json", code=1).stdout)
        return [f"{finding['kind']} {finding['what']}" for finding in done["findings"]]

    def solve(self, command: str, prefix: Path, *specs: str) -> Any:
        """conda's answer to a command that solves, with our channel and no other."""
        return self.conda.json(command, "-p", prefix, "--override-channels", "-c", self.channel, *specs)


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    # Not in pytest's directory, whose path is longer than an environment's may be.
    with tempfile.TemporaryDirectory(prefix="conda-") as name:
        home = Path(name).resolve()
        user = User(home)
        conda = find_conda(home)
        _fill(home / "channel", user, tmp_path_factory)
        module = {"hello_world/__init__.py": "def main():\n    print('hello')\n"}
        wheel = write_wheel(home, "hello_world", "1.0", module, {"hello": "hello_world:main"})
        with serving(home / "channel") as url:
            yield Desk(user, conda, url, locked_wheel(wheel))


def _fill(channel: Path, user: User, tmp_path_factory: pytest.TempPathFactory) -> None:
    built = shared_channel(tmp_path_factory)[1]
    for name in ("python", "pip"):
        archive = built.archive(name)
        place = channel / archive.parent.name / archive.name
        place.parent.mkdir(parents=True)
        shutil.copy(archive, place)
    archives = [each.write(tmp_path_factory.mktemp("archives")) for each in ARCHIVES]
    user.run("channel", "add", channel, *archives)


def builds(packages: Sequence[LockedPackage]) -> set[tuple[str, str, str | None]]:
    """Name, version and build of the conda packages of a lock."""
    return {(package.name, package.version, package.build_string) for package in packages if package.manager == "conda"}


def listed(desk: Desk, prefix: Path) -> set[tuple[str, str, str]]:
    """Name, version and build of the conda packages of a prefix, as conda sees it."""
    found = desk.conda.json("list", "-p", prefix)
    return {(each["name"], each["version"], each["build_string"]) for each in found if each["channel"] != "pypi"}


def history(prefix: Path) -> list[str]:
    """What conda's history says, each change without its time."""
    return re.split(r"^==> .* <==\n", (prefix / "conda-meta" / "history").read_text(), flags=re.MULTILINE)[1:]
