"""The main job as a newcomer runs it: `bin/up --once`, with assertions on what it made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Run:
    """One run of the main job."""

    place: Path
    report: dict[str, Any]
    output: str

    def envtool(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "envtool", *(str(argument) for argument in arguments)]
        return subprocess.run(argv, cwd=self.place, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    # Not tmp_path, which is longer than the path of an environment may be.
    with tempfile.TemporaryDirectory(prefix="up-") as scratch:
        place = Path(scratch).resolve()
        report = place / "report.json"
        argv = [sys.executable, str(ROOT / "bin/up"), "--once", "--place", str(place), "--report", str(report)]
        # This interpreter has what bin/up would otherwise install.
        done = subprocess.run(argv, env={**os.environ, "ENVSERVE_VENV": sys.prefix}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        yield Run(place, json.loads(report.read_text()), done.stdout)


def test_both_versions_answered_and_nothing_failed(run: Run) -> None:
    first, second = run.report["first"], run.report["second"]
    assert first != second
    assert run.report["failed"] == 0
    assert set(run.report["answers"]) == {first, second}
    assert run.report["answers"][second] >= 100
    assert first in run.output
    assert second in run.output


def test_the_log_has_a_line_with_time_size_and_sha256_for_each_worker(run: Run) -> None:
    lines = [json.loads(line) for line in (run.place / "serve.log").read_text().splitlines() if line.startswith("{")]
    swaps = [line for line in lines if line["event"] == "swapped" and line["sha256"] == run.report["second"]]
    size = (run.place / "checkpoints/model_v2.safetensors").stat().st_size
    assert len({line["worker"] for line in swaps}) == 2
    assert all(line["time"] and line["size_bytes"] == size for line in swaps)
    assert {line["env_digest"] for line in swaps} == {run.report["env_digest"]}


def test_the_model_ran_on_the_created_python_and_torch(run: Run) -> None:
    script = "import sys, torch; print(sys.version_info[:2], torch.__version__, torch.__file__)"
    shown = run.envtool("run", "-p", run.place / "env", "--", "python", "-c", script).stdout
    assert shown.startswith("(3, 9) 1.12.1")
    assert str(run.place / "env") in shown


def test_the_environment_is_still_the_locks_after_it_served(run: Run) -> None:
    lock = run.place / "conda-lock.yml"
    verified = run.envtool("verify", "-p", run.place / "env", "-f", lock, "--json")
    assert verified.returncode == 0, verified.stdout[-2000:]
    assert json.loads(verified.stdout)["env_digest"] == run.report["env_digest"]
    again = run.envtool("create", "-p", run.place / "env", "-f", lock)
    assert "nothing to do" in again.stderr


def test_a_second_environment_from_the_lock_is_the_same(run: Run) -> None:
    made = run.envtool("create", "-p", run.place / "two", "-f", run.place / "conda-lock.yml", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["env_digest"] == run.report["env_digest"]
