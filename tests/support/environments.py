"""Virtual environments of other people's programs, made once per machine, outside of the clone."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


def make_environment(
    requirements: Sequence[str], alone: Sequence[str] = (), finish: Callable[[Path], None] | None = None,
    interpreter: Path = Path(sys.executable),
) -> Path:  # fmt: skip
    """Return the Python of an environment that has these packages; skip the test where they cannot be had.

    Args:
        requirements: of pip, with all that they need.
        alone: of pip, without.
        finish: what is done to the environment's directory last; another text of it makes another environment.
        interpreter: the Python that the environment has.
    """
    last = ["finish:", inspect.getsource(finish)] if finish else []
    # An environment is a link to the Python that made it, which may lie in a clone that is gone, or goes tomorrow.
    made_by = os.path.realpath(interpreter)
    wanted = "\n".join([sys.version, made_by, *requirements, "alone:", *alone, *last])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "envserve-tests"
    place = cache / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ((place / "done").exists() and (place / "bin" / "python").exists()):
            shutil.rmtree(place, ignore_errors=True)
            _make(place, interpreter, requirements, alone)
            if finish:
                finish(place)
            (place / "done").touch()
    return place / "bin" / "python"


def _make(place: Path, interpreter: Path, requirements: Sequence[str], alone: Sequence[str]) -> None:
    python = str(place / "bin" / "python")
    # pip takes minutes for what uv does in seconds.
    has_uv = importlib.util.find_spec("uv") is not None
    uv = [sys.executable, "-m", "uv"]
    _run(
        [*uv, "venv", "-q", "-p", str(interpreter), str(place)]
        if has_uv
        else [str(interpreter), "-m", "venv", str(place)]
    )
    install = [*uv, "pip", "install", "-q", "-p", python] if has_uv else [python, "-m", "pip", "install", "-q"]
    if requirements:
        _run([*install, *requirements])
    if alone:
        _run([*install, "--no-deps", *alone])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        pytest.skip(f"the packages cannot be installed here: {done.stdout.strip().splitlines()[-1:]}")
