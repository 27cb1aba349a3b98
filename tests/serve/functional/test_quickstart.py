"""The example does what its comments say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from serving import ROOT

pytestmark = pytest.mark.needs_torch

EXAMPLE = ROOT / "examples" / "quickstart"
IN_FILE = dict.fromkeys(("model", "name", "python_path"))


def run(*command, cwd):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def train_and_publish(directory, seed, suffix):
    weights = directory / f"weights{suffix}"
    assert "rows right" in run(EXAMPLE / "train.py", weights, "--seed", seed, cwd=directory)
    options = ["--to", directory / "checkpoints", "--name", f"model_v{seed}{suffix}", "--version", seed, "--json"]
    return json.loads(run("-m", "serve", "publish", weights, *options, cwd=ROOT))


def test_train_publish_serve_and_publish_again(start_server, tmp_path):
    first = train_and_publish(tmp_path, 1, ".safetensors")
    server = start_server(config=EXAMPLE / "serve.toml", **IN_FILE)
    server.wait_live(1)
    row = [[0.5] * 16]
    one = server.client().predict(row)
    assert (one.sha256, one.headers["x-model-version"], one.headers["x-model-name"]) == (
        first["sha256"],
        "1",
        "quickstart",
    )
    assert sum(one.json["outputs"][0]) == pytest.approx(1.0)
    second = train_and_publish(tmp_path, 2, ".safetensors")
    server.wait_live(2)
    two = server.client().predict(row)
    assert two.sha256 == second["sha256"]
    assert two.json["outputs"] != one.json["outputs"]


def test_what_torch_save_writes_is_converted_where_that_is_safe(tmp_path):

    assert train_and_publish(tmp_path, 3, ".pth")["format"] == "safetensors"
