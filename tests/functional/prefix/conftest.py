"""A user with a home of her own, a small channel, and envtool as a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage, format_lockfile
from tests.support.archives import PLACEHOLDER, Archive, File, lock_of, locked
from tests.support.wheels import locked_wheel, write_wheel

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class User:
    """Runs envtool with a home, a cache and a directory of her own."""

    home: Path

    @property
    def env(self) -> dict[str, str]:
        own = {"HOME": str(self.home), "ENVTOOL_HOME": str(self.home / "envtool"), "PYTHONPATH": str(ROOT)}
        return {**os.environ, **own, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}

    def start(self, *arguments: object, **env: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "envtool", *(str(argument) for argument in arguments)]
        return subprocess.Popen(
            argv, cwd=self.home, env={**self.env, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run envtool to its end; the exit code must be the one that is expected."""
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill a program and all that it started, at once."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def write_lock(self, *packages: LockedPackage, name: str = "conda-lock.yml", **metadata: str) -> Path:
        path = self.home / name
        path.write_text(format_lockfile(lock_of(*packages, **metadata)))
        return path


@pytest.fixture
def user() -> Iterator[User]:
    # Not tmp_path, which is longer than the path of an environment may be.
    with tempfile.TemporaryDirectory(prefix="envtool-") as home:
        yield User(Path(home).resolve())


@dataclass(frozen=True)
class Channel:
    """Three archives: with prefixes in text and binaries, with a link and modes, and in the old format."""

    tool: LockedPackage
    library: LockedPackage
    old: LockedPackage

    @property
    def all(self) -> tuple[LockedPackage, ...]:
        return self.tool, self.library, self.old

    def path(self, package: LockedPackage) -> Path:
        return Path(package.url[len("file://") :])


TEXT = f"#!{PLACEHOLDER}/bin/sh\necho {PLACEHOLDER}/share\n".encode()
# Two C strings that name the prefix, one of them twice, with bytes after them whose places must not move.
BINARY = b"\x7fELF" + f"{PLACEHOLDER}/lib\0{PLACEHOLDER}/a:{PLACEHOLDER}/b\0".encode() + b"end\0" * 5


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Channel:
    root = tmp_path_factory.mktemp("channel")
    tool = Archive("tool", {"bin/tool": File(TEXT, 0o755, prefix="text"), "lib/tool.so": File(BINARY, prefix="binary")})
    files = {"lib/libx.so.1": File(b"library" * 1000, 0o755), "lib/libx.so": File(link="libx.so.1"), "share/x": File()}
    library = Archive("library", files, depends=("tool",))
    old = Archive("old", {"share/old.txt": File(b"old\n"), "bin/old": File(b"#!/bin/sh\necho old\n", 0o755)})
    return Channel(locked(tool.write(root)), locked(library.write(root)), locked(old.write(root, ".tar.bz2")))


MODULE = """\
import sysconfig
NAMES = {"a", "b", "c"}
def where(names=frozenset({"x", "y"})):
    print(__file__, where.__code__.co_filename, sysconfig.get_paths()["purelib"])
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> tuple[LockedPackage, ...]:
    """Python 3.9 and pip from the embedded channel; its sources are cached outside of the clone."""
    channel = tmp_path_factory.mktemp("embedded")
    argv = [sys.executable, "-m", "envtool", "channel", "build", "python", "pip", "--output", str(channel)]
    subprocess.run(argv, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    return tuple(locked(path) for path in sorted(channel.rglob("*.conda")))


@pytest.fixture(scope="session")
def hello(tmp_path_factory: pytest.TempPathFactory) -> LockedPackage:
    files = {
        "hello_world/__init__.py": MODULE,
        "hello_world/for_another_python.py": "print 'not Python 3'\n",
        "{data}/scripts/plain": "#!python\nimport hello_world; hello_world.where()\n",
        "{data}/data/share/hello.txt": "data\n",
    }
    wheel = write_wheel(tmp_path_factory.mktemp("wheels"), "hello_world", "1.0", files, {"hello": "hello_world:where"})
    return locked_wheel(wheel)
