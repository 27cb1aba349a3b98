"""Locks against real package records: a small extract, served on the loopback interface under canonical URLs."""

from __future__ import annotations

import os
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

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "envtool", *(str(each) for each in arguments)],
            cwd=tmp_path,
            env={
                **os.environ,
                "ENVTOOL_HOME": str(home),
                "ENVTOOL_MIRRORS": mirrors,
                "PYTHONPATH": str(ROOT),
                **variables,
            },
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file into the test's own directory."""

    def write_file(text: str, name: str = "environment.yml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file
