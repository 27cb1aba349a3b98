"""Other Pythons of this machine, and the project installed for them from its wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = [sys.executable, "-m", "uv"]


def find_python(version: str) -> Path:
    """The CPython of a minor version that is on PATH or that pyenv has; the test is skipped where there is none."""
    chosen = [{}]
    if shutil.which("pyenv"):
        listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout.split()
        chosen += [{"PYENV_VERSION": each} for each in listed if each.startswith(f"{version}.")]
    code = "import sys; print(sys.implementation.name, sys.executable)"
    for extra in chosen:
        if shutil.which(f"python{version}"):
            argv = [f"python{version}", "-c", code]
            done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **extra})
            if done.stdout.startswith("cpython "):
                return Path(done.stdout.partition(" ")[2].strip())
    pytest.skip(f"no CPython {version} on PATH or in pyenv")


def copy_clone(target: Path) -> Path:
    """What a clone of this tree has, with what is changed in it and not committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, stdout=-1, text=True, check=True
    )
    for name in listed.stdout.strip("\0").split("\0"):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def build_wheel(target: Path) -> Path:
    """The project's wheel, built from what a clone has."""
    source = copy_clone(target / "source")
    argv = [*UV, "build", "-q", "--wheel", "--no-build-isolation", "-p", sys.executable, "-o", str(target), str(source)]
    subprocess.run(argv, check=True)
    return next(target.glob("*.whl"))


def install(python: Path, place: Path, *requirements: str) -> Path:
    """Make an environment of a Python, and return its programs' directory; skip where the packages cannot be had."""
    made = ["venv", "-q", "--seed", "-p", str(python), str(place)]
    for argv in (made, ["pip", "install", "-q", "-p", str(place / "bin/python"), *requirements]):
        done = subprocess.run([*UV, *argv], stdout=-1, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            pytest.skip(f"the packages cannot be installed here: {done.stdout.strip().splitlines()[-3:]}")
    return place / "bin"


def bare_environment(home: Path, *programs: Path) -> dict[str, str]:
    """The variables of somebody who has just signed in: an empty home, these programs, and the system's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ENVTOOL_", "PYENV", "PYTHON", "SERVE_", "VIRTUAL_ENV", "XDG_"))
    }
    path = ":".join([*map(str, programs), "/usr/bin", "/bin"])
    return {**kept, "HOME": str(home), "PATH": path, "NO_COLOR": "1"}
