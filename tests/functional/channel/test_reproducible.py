"""This repository's reproducibility check: `envtool ci` on Python 3.9, pip and envserve from the embedded channel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SPEC = """\
channels: [{url}]
platforms: [linux-64]
dependencies: [python=3.9, pip, envserve]
virtual-packages: {{linux-64: {{__glibc: "2.29"}}}}
"""


@pytest.fixture
def project() -> Iterator[Path]:
    """A directory whose path a script can name."""
    with tempfile.TemporaryDirectory(prefix="envtool-") as directory:
        yield Path(directory)


def run(project: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(root), "ENVTOOL_HOME": str(project / "home")}
    argv = [sys.executable, "-m", "envtool", *arguments]
    return subprocess.run(argv, cwd=project, env=environ, capture_output=True, text=True, check=False)


def test_the_embedded_environment_is_the_same_when_made_twice(channel: Any, checkout: Any, project: Path) -> None:
    (project / "environment.yml").write_text(SPEC.format(url=json.dumps(channel.report["url"])))
    locked = run(project, checkout.root, "lock")
    assert locked.returncode == 0, locked.stderr
    done = run(project, checkout.root, "ci", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["verdict"], report["package_count"]) == ("good", 3)
    assert {step["verdict"] for step in report["steps"]} == {"good"}
    assert len(report["steps"]) >= 4  # conda-lock as a second judge, where it is installed
    python = project / ".envtool-ci" / "env" / "bin" / "python"
    shown = subprocess.run(
        [python, "-c", "import serve, sys; print(sys.version_info[:2])"], capture_output=True, text=True
    )
    assert shown.stdout == "(3, 9)\n", shown.stderr
