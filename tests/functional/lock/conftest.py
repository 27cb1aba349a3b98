"""Locks against real package records: a small extract, served on the loopback interface under canonical URLs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from repodata_server import serving, variable

ROOT = Path(__file__).parents[3]
EXTRACT = Path(__file__).parents[2] / "data" / "repodata"
Envtool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def mirror() -> Iterator[str]:
    """The URL of a mirror that has the extract."""
    with serving(EXTRACT) as base:
        yield base


@pytest.fixture
def envtool(mirror: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Envtool:
    """Runs envtool in the test's own directory; the packages come from the extract."""
    home = tmp_path_factory.getbasetemp() / "envtool-home"
    mirrors = variable(mirror, ["conda-forge", "pytorch", "nvidia"])

    def run(
        *arguments: object, kill_after_s: float | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "envtool", *(str(argument) for argument in arguments)]
        environ = {"ENVTOOL_HOME": str(home), "ENVTOOL_MIRRORS": mirrors, "PYTHONPATH": str(ROOT), **variables}
        process = subprocess.Popen(
            argv,
            cwd=tmp_path,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            answer = process.communicate(timeout=kill_after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # uv is its child
            answer = process.communicate()
        return subprocess.CompletedProcess(argv, process.returncode, *answer)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file into the test's own directory."""

    def write_file(text: str, name: str = "environment.yml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file
