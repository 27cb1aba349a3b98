"""A real conda makes an environment of what `envtool export` writes; conda-lock does of the lock itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage
from tests.interop.conda.conftest import SPECS, Desk, builds, listed


@pytest.fixture(scope="module")
def packages(desk: Desk) -> list[LockedPackage]:
    return desk.lock(*SPECS)


def export(desk: Desk, *options: str) -> Path:
    """Write what is exported into a file that conda knows by its name."""
    path = desk.user.home / f"exported{'.yml' if 'environment' in options else '.txt'}"
    desk.user.run("export", *options, "-o", path)
    return path


def test_conda_makes_an_environment_of_the_pinned_file(desk: Desk, packages: list[LockedPackage]) -> None:
    prefix = desk.user.home / "of-environment"
    # conda lets the environment's pip install the wheel, and that asks a package index or a directory.
    wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(desk.user.home)}
    desk.conda.run("env", "create", "-p", prefix, "-f", export(desk, "environment"), **wheels)
    assert listed(desk, prefix) == builds(packages)
    found = {each["name"]: each["version"] for each in desk.conda.json("list", "-p", prefix)}
    assert found["hello-world"] == "1.0"
    assert desk.conda.json("env", "config", "vars", "list", "-p", prefix) == {"ANSWER": "42", "SPACED": "a b"}


def test_conda_solves_the_pinned_file_without_builds(desk: Desk, packages: list[LockedPackage]) -> None:
    exported = export(desk, "environment", "--no-builds")
    assert "h1_0" not in exported.read_text()
    answer = desk.conda.json("env", "create", "-p", desk.user.home / "none", "-f", exported, "--dry-run")
    found = {
        tuple(re.split("=+", dependency.rpartition("::")[2]))
        for dependency in answer["dependencies"]
        if "::" in dependency
    }
    assert found == builds(packages)


def test_conda_makes_an_environment_of_the_explicit_file(desk: Desk, packages: list[LockedPackage]) -> None:
    prefix = desk.user.home / "of-explicit"
    desk.conda.run("create", "-p", prefix, "--file", export(desk, "explicit"))
    assert listed(desk, prefix) == builds(packages)
    shown = desk.conda.run("list", "-p", prefix, "--explicit", "--md5").stdout.split("@EXPLICIT\n")[1]
    assert sorted(shown.split()) == sorted(
        f"{package.url}#{package.md5}" for package in packages if package.manager == "conda"
    )


def test_conda_checks_the_hashes_of_the_explicit_file(
    desk: Desk, packages: list[LockedPackage], tmp_path: Path
) -> None:
    exported = export(desk, "explicit")
    tool = next(package for package in packages if package.name == "tool")
    assert tool.md5
    exported.write_text(exported.read_text().replace(tool.md5, "0" * 32))
    arguments = ("create", "-p", desk.user.home / "none", "--file", exported)
    said = desk.conda.run(*arguments, code=1, CONDA_PKGS_DIRS=str(tmp_path / "pkgs")).stderr
    assert "ChecksumMismatchError" in said
    assert f"actual md5: {tool.md5}" in said


def test_sha256_is_for_a_newer_conda_than_this(desk: Desk, packages: list[LockedPackage]) -> None:
    # The reason why an explicit file has MD5 unless SHA-256 is asked for.
    exported = export(desk, "explicit", "--sha256")
    assert all(package.sha256 in exported.read_text() for package in packages if package.sha256)
    arguments = ("create", "-p", desk.user.home / "none", "--file", exported)
    assert "Could not parse explicit URL" in desk.conda.run(*arguments, code=1).stderr


def test_conda_lock_installs_our_lock_with_conda(desk: Desk, packages: list[LockedPackage]) -> None:
    # Not the wheels: conda-lock has `conda run` install them, and the conda that it brings along lacks the scripts
    # that put that into the environment; the machine's own pip would do it.
    prefix, lock = desk.user.home / "of-conda-lock", desk.user.home / "without-wheels.yml"
    desk.user.run("export", "conda-lock", "-o", lock)
    conda = ["--conda", str(desk.conda.program)]
    argv = [sys.executable, "-m", "conda_lock", "install", *conda, "-p", str(prefix), str(lock)]
    done = subprocess.run(argv, env=desk.conda.env, cwd=desk.user.home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert listed(desk, prefix) == builds(packages)
