"""Virtual environments of the clients, made once per machine, outside of the clone.

Some clients are heavy, and some want other versions than the tests do, so none of them is a requirement of ours.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_IS_OLD = sys.version_info < (3, 10)
TRITON = ["tritonclient[http]>=2.41", "open-inference-openapi==2.0.0.1", *(["gevent<25"] if _IS_OLD else [])]
SCHEMATHESIS = ["schemathesis>=4,<5"]
# What KServe's client imports; all that the package asks for is several times as much.
KSERVE = [
    "cloudevents<2",
    "fastapi",
    "grpc-interceptor",
    "grpcio",
    "httpx",
    "kubernetes",
    "numpy<2" if _IS_OLD else "numpy",
    "orjson",
    "pandas",
    "prometheus-client",
    "protobuf>=5,<6" if _IS_OLD else "protobuf>=6.33.5,<7",
    "psutil",
    "pydantic",
    "pyyaml",
    "requests",
    "six",
    "tabulate",
    "timing-asgi",
    "uvicorn",
    "watchfiles",
]
KSERVE_ITSELF = ["kserve==0.16.0" if _IS_OLD else "kserve>=0.16"]


def make_environment(requirements: list[str], alone: list[str] = ()) -> Path:
    """Return the Python of an environment that has these packages; skip the test where they cannot be had.

    Args:
        requirements: of pip, with all that they need.
        alone: of pip, without.
    """
    wanted = "\n".join([sys.version, *requirements, "alone:", *alone])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "envserve-tests"
    place = cache / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            _make(place, requirements, alone)
            (place / "done").touch()
    return place / "bin" / "python"


def _make(place: Path, requirements: list[str], alone: list[str]) -> None:
    python = str(place / "bin" / "python")
    # pip takes minutes for what uv does in seconds.
    has_uv = importlib.util.find_spec("uv") is not None
    uv = [sys.executable, "-m", "uv"]
    _run(
        [*uv, "venv", "-q", "-p", sys.executable, str(place)] if has_uv else [sys.executable, "-m", "venv", str(place)]
    )
    install = [*uv, "pip", "install", "-q", "-p", python] if has_uv else [python, "-m", "pip", "install", "-q"]
    if requirements:
        _run([*install, *requirements])
    if alone:
        _run([*install, "--no-deps", *alone])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        pytest.skip(f"the client's packages cannot be installed here: {done.stdout.strip().splitlines()[-1:]}")
