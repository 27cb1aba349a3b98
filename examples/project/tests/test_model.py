"""The model can be trained, and be served."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_what_training_writes_can_be_served(tmp_path):
    weights = tmp_path / "weights.safetensors"
    subprocess.run([sys.executable, "train.py", weights, "--epochs", "1"], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "serve", "check", "--weights", weights, "--json"]
    findings = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE).stdout)
    assert not [finding for finding in findings if finding["level"] == "problem"]
