"""Clients that nobody here wrote, each a process of its own, against a real gunicorn with two workers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from environments import KSERVE, KSERVE_ITSELF, TRITON

from tests.support.environments import make_environment

PROGRAMS = Path(__file__).parent / "programs"


def assert_runs(python, program, server):
    done = subprocess.run(
        [str(python), str(PROGRAMS / program), str(server.port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{server.text}"


def test_tritonclient(server):
    assert_runs(make_environment(TRITON), "triton.py", server)


def test_open_inference_openapi(server):
    assert_runs(make_environment(TRITON), "generated.py", server)


@pytest.mark.parametrize("server", ["gthread"], indirect=True)  # its imports alone take many seconds
def test_kserve(server):
    assert_runs(make_environment(KSERVE, KSERVE_ITSELF), "kserve_client.py", server)


def test_java(server):
    if shutil.which("javac") is None:
        pytest.skip("a Java development kit is not on this machine")
    assert_runs("java", "Peer.java", server)


def curl(server, path, *options):
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--fail-with-body",
        *options,
        f"http://127.0.0.1:{server.port}{path}",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60)
    return done.returncode, done.stdout


def test_curl(server, tmp_path):
    rows = {"inputs": [[1, 2, 3, 4]]}
    asked = (
        ["--json", json.dumps(rows)]
        if _has_json()
        else ["-H", "Content-Type: application/json", "-d", json.dumps(rows)]
    )
    code, body = curl(server, "/predict", *asked)
    expected = json.loads(body)["outputs"]
    assert code == 0
    code, body = curl(server, "/v1/models/affine:predict", "-d", json.dumps({"instances": rows["inputs"]}))
    assert json.loads(body) == {"predictions": expected}
    tensor = {"name": "inputs", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    code, body = curl(server, "/v2/models/affine/infer", "-d", json.dumps({"inputs": [tensor]}), "--compressed")
    assert json.loads(body)["outputs"][0]["data"] == expected[0]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows["inputs"]))
    code, body = curl(server, "/predictions/affine", "-T", str(file))
    assert (code, json.loads(body)) == (0, expected)
    code, body = curl(server, "/v2/models/affine/infer", "-d", "{")
    assert (code, "expected JSON" in json.loads(body)["error"]) == (22, True)
    code, body = curl(server, "/ping")
    assert (code, json.loads(body)) == (0, {"status": "Healthy"})


def _has_json():
    found = subprocess.run(["curl", "--help", "all"], stdout=subprocess.PIPE, text=True)
    return "--json" in found.stdout
