"""Packages made from a real compiled wheel and from a checkout, installed by py-rattler and run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.functional.channel.conftest import install
from tests.functional.prefix.conftest import User, user

__all__ = ["user"]  # a fixture

PROJECT = """\
[build-system]
requires = ["hatchling==1.27.0"]
build-backend = "hatchling.build"
[project]
name = "our-tool"
version = "1.0"
license = "MIT"
license-files = ["LICENSE"]
requires-python = ">=3.9"
dependencies = ["markupsafe>=2"]
scripts = {our-tool = "our_tool:main"}
"""
MAIN = "import markupsafe._speedups\ndef main():\n    print(markupsafe.escape('<'))\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "our_tool").mkdir(parents=True)
    (root / "our_tool" / "__init__.py").write_text(MAIN)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "LICENSE").write_text("free\n")
    (root / "dist").mkdir()
    (root / "dist" / "big").write_text("no input")
    return root


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "--dest", tmp_path]
    argv += ["--python-version", "3.9", "--platform", "manylinux2014_x86_64", "markupsafe==3.0.2"]
    done = subprocess.run([str(argument) for argument in argv], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no package index is reached")
    return next(tmp_path.glob("*.whl"))


@pytest.mark.network
def test_a_team_adds_its_own_packages(channel: Any, project: Path, wheel: Path, user: User, tmp_path: Path) -> None:
    place = user.home / "channel"
    shutil.copytree(channel.path, place)
    arguments = ("channel", "build", "--checkout", project, "--wheel", wheel, "--json")
    made = json.loads(user.run(*arguments, "--output", place).stdout)
    compiled, pure = made["added"]
    assert compiled.startswith("linux-64/markupsafe-3.0.2-py39h")
    assert pure.startswith("noarch/our-tool-1.0-pyh")
    assert json.loads(user.run("channel", "check", place, "--json").stdout)["issues"] == []
    again = json.loads(user.run(*arguments, "--output", user.home / "again").stdout)
    assert {name: (user.home / "again" / name).read_bytes() for name in again["added"]} == {
        name: (place / name).read_bytes() for name in made["added"]
    }
    prefix = install(type(channel)(place, {"url": place.as_uri()}), user.home / "env", "our-tool")
    done = subprocess.run([prefix / "bin" / "our-tool"], capture_output=True, text=True, check=False)
    assert done.stdout == "&lt;\n", done.stderr
    assert list(prefix.rglob("markupsafe/_speedups*.so"))


def test_what_cannot_be_made_is_said(user: User, tmp_path: Path) -> None:
    assert "pyproject.toml" in user.run("channel", "build", "--checkout", tmp_path, "--output", "c", code=3).stderr
    user.run("channel", "build", "pip", "--checkout", tmp_path, code=2)
    user.run("channel", "build", "--wheel", tmp_path / "none.whl", "--output", "c", code=3)
