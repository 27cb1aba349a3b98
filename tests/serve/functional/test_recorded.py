"""Requests are recorded by real workers, become golden ones, and are answered again by another checkpoint."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys

import pytest
from serving import ROOT, wait_until
from trainer import ROW

SUPPORT = ROOT / "tests/serve/support"
pytestmark = pytest.mark.needs_torch

REDACT = """
def without_large(recorded):
    if recorded["inputs"][0][0] == 666:
        raise RuntimeError("not this one")
    return None if recorded["inputs"][0][0] > 100 else {**recorded, "who": "nobody"}
"""


@pytest.fixture
def serve(tmp_path):
    """Run `python -m serve` with the server's settings."""

    def run(*arguments, code=0):
        environ = {
            **os.environ,
            "SERVE_MODEL": "affine:Affine",
            "SERVE_CHECKPOINTS": str(tmp_path / "checkpoints"),
            "SERVE_STORE": str(tmp_path / "store"),
            "SERVE_PYTHON_PATH": str(SUPPORT),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "serve", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environ, stdout=-1, stderr=-1, text=True)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout

    return run


def recorded_in(tmp_path):
    path = tmp_path / "store" / "recorded.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def infer(server, row):
    """Ask by the V2 protocol with binary tensors."""
    tensor = {"name": "inputs", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return server.client().request("POST", "/v2/models/affine/infer", head + struct.pack("<4f", *row), headers)


def test_from_requests_to_golden_ones_to_a_trial_of_another_checkpoint(start_server, trainer, serve, tmp_path):
    first = trainer.publish(1)
    (tmp_path / "redaction.py").write_text(REDACT)
    paths = f"{SUPPORT}:{tmp_path}"
    server = start_server(record_share=1, record_redact="redaction:without_large", python_path=paths)
    server.wait_live(1)
    rows = [[float(number), -2.0, 5.0, 7.0] for number in range(20)]
    client = server.client()
    for row in rows[:10]:  # the later ones are known by their bytes where the worker has an event loop
        assert client.predict([row]).status == 200
    for row in rows[10:]:
        assert infer(server, row).status == 200
    for number in (101, 666, 7777):
        assert client.predict([[number, 0, 0, 0]]).status == 200
    assert client.predict([["x"] * 4]).status == 422
    assert client.predict([ROW]).status == 200
    wait_until(lambda: len(recorded_in(tmp_path)) >= 21, "21 recorded requests", lambda: server.text)
    found = recorded_in(tmp_path)
    assert sorted(one["inputs"][0] for one in found) == sorted([*rows, ROW])
    assert all(one["outputs"] == [trainer.expected(first.sha256, one["inputs"][0])] for one in found)
    assert {(one["who"], one["sha256"], one["generation"]) for one in found} == {("nobody", first.sha256, 1)}
    assert (tmp_path / "store/recorded.jsonl").stat().st_mode & 0o777 == 0o600
    (failed,) = server.wait_for_events("record_failed", 1)
    assert failed["reason"] == "RuntimeError: not this one"

    golden = json.loads(serve("golden", "--count", 5))
    assert len(golden) == 5
    # The answers that lie farthest apart are among them: those of the first and the last row, which are on a line.
    assert {0.0, 19.0} <= {one["inputs"][0][0] for one in golden}
    assert json.loads(serve("replay", "--against", first.checkpoint, "--json"))["agreed"] == 21
    other = trainer.train(2, "other.safetensors")
    text = serve("replay", "--against", other, code=1)
    assert text.startswith("0 of 21 answers agree (tolerance)")
    assert "request 0: outputs[0]" in text

    serve("publish", other, "--to", tmp_path / "checkpoints", "--golden-from", "recorded")
    server.wait_live(2)
    (marker,) = (tmp_path / "checkpoints").glob("other*.done")
    stated = json.loads(marker.read_text())["golden"]
    assert len(stated) == 16
    sha256 = trainer.sha256(2)
    assert all(one["outputs"] == [trainer.expected(sha256, one["inputs"][0])] for one in stated)


def test_nothing_is_recorded_by_default(start_server, trainer, serve, tmp_path):
    trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    assert server.client().predict([ROW]).status == 200
    server.stop()
    assert recorded_in(tmp_path) == []
    serve("golden", code=3)
