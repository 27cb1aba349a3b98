"""The comparison with rivals runs; what it shows is for a quiet machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.nightly
@pytest.mark.needs_torch
def test_the_table_of_goals_is_written():
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not on the path")
    command = [sys.executable, str(ROOT / "bench" / "serve.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| FastAPI on uvicorn")]
    assert len(rows) == 4, done.stdout
