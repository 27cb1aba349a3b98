"""The examples of a table, images and texts: trained, published, served and asked, as their comments say."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import subprocess
import sys

import pytest
from serving import ROOT

pytestmark = pytest.mark.needs_torch

EXAMPLES = ROOT / "examples"
IN_FILE = dict.fromkeys(("model", "name", "python_path"))


def run(*command, cwd):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


@pytest.fixture
def serve_example(start_server, tmp_path):
    """A function that trains an example, publishes it and returns a client of its server."""

    def serve(name):
        example = EXAMPLES / name
        weights = tmp_path / "weights.safetensors"
        assert "wrote" in run(example / "train.py", weights, cwd=example)
        options = ["--to", tmp_path / "checkpoints", "--name", "model_v1.safetensors", "--version", 1]
        run("-m", "serve", "publish", weights, *options, cwd=ROOT)
        server = start_server(config=example / "serve.toml", workers=1, **IN_FILE)
        server.wait_live(1, workers=1)
        return server.client()

    return serve


def post(client, path, content, content_type="application/json"):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    found = client.request("POST", path, body, {"Content-Type": content_type})
    assert found.status == 200, found
    return found.json


def test_tabular(serve_example):
    client = serve_example("tabular")
    customers = [
        {"months": 1, "monthly_fee": 85, "plan": "basic"},
        {"months": 58, "monthly_fee": 12, "plan": "business"},
    ]
    columns = {name: [customer[name] for customer in customers] for name in customers[0]}
    found = post(client, "/predict", {"inputs": columns})["outputs"]
    assert found["verdict"] == ["leaves", "stays"]
    by_row = post(client, "/v1/models/churn:predict", {"instances": customers})["predictions"]
    assert [row["verdict"] for row in by_row] == ["leaves", "stays"]
    tensors = [
        {
            "name": name,
            "datatype": "BYTES" if name == "plan" else "FP32",
            "shape": [len(customers)],
            "data": columns[name],
        }
        for name in columns
    ]
    named = {
        output["name"]: output["data"]
        for output in post(client, "/v2/models/churn/infer", {"inputs": tensors})["outputs"]
    }
    assert named["verdict"] == ["leaves", "stays"]
    assert named["probability"] == pytest.approx(found["probability"])
    described = client.request("GET", "/v2/models/churn").json
    assert {tensor["name"]: tensor["datatype"] for tensor in described["inputs"]} == {
        "months": "FP32",
        "monthly_fee": "FP32",
        "plan": "BYTES",
    }
    for wrong in (
        {**columns, "plan": ["free", "basic"]},
        {**columns, "months": [1]},
        {"plan": []},
        [1],
        {**columns, "months": [{}, []]},
    ):
        refused = client.request("POST", "/predict", json.dumps({"inputs": wrong}).encode())
        assert (refused.status, "expected" in refused.json["error"] or "must be" in refused.json["error"]) == (
            422,
            True,
        )


def draw(shape):
    pillow = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    spec = importlib.util.spec_from_file_location("drawing", EXAMPLES / "image" / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(EXAMPLES / "image"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
        sys.modules.pop("model", None)
    pixels = module.draw(shape, numpy.random.default_rng(1), side=48)
    writer = io.BytesIO()
    pillow.fromarray((pixels * 255).astype("uint8")).save(writer, "PNG")
    return writer.getvalue(), pixels[::2, ::2]


def test_image(serve_example):
    client = serve_example("image")
    for shape in ("circle", "square", "cross"):
        png, pixels = draw(shape)
        assert post(client, "/predict", png, "image/png")["outputs"]["shape"] == [shape]
        assert post(client, "/predictions/shapes", png, "application/octet-stream")["shape"] == [shape]
        assert post(client, "/predict", {"inputs": [[pixels.tolist()]]})["outputs"]["shape"] == [shape]
    refused = client.request("POST", "/predict", png[:100], {"Content-Type": "image/png"})
    assert (refused.status, "whole PNG or JPEG" in refused.json["error"]) == (400, True)


def test_text(serve_example):
    client = serve_example("text")
    texts = [
        "the children were late this morning",
        "der Zug ist nicht hier",
        "la gare est à gauche",
        "¿dónde está la calle?",
    ]
    expected = ["English", "German", "French", "Spanish"]
    assert post(client, "/predict", {"inputs": texts})["outputs"]["language"] == expected
    tensor = {"name": "inputs", "datatype": "BYTES", "shape": [4], "data": texts}
    outputs = post(client, "/v2/models/language/infer", {"inputs": [tensor], "outputs": [{"name": "language"}]})[
        "outputs"
    ]
    assert outputs == [{"name": "language", "datatype": "BYTES", "shape": [4], "data": expected}]
    assert client.request("POST", "/predict", b'{"inputs": [1]}').status == 422


def test_sequence(serve_example):
    client = serve_example("sequence")
    short, long = ([math.sin(0.5 * step) for step in range(steps)] for steps in (12, 30))
    for series in (short, long):
        following = post(client, "/predict", {"inputs": [series]})["outputs"][0]
        assert following == pytest.approx(math.sin(0.5 * len(series)), abs=0.25)
    assert client.request("GET", "/v2/models/forecast").json["inputs"][0]["shape"] == [-1, -1]
