"""Requests without rows get answers without rows, in every protocol."""

from __future__ import annotations

import io
import json

import numpy
import pytest
from wire import Wire, post

pytestmark = pytest.mark.needs_torch

TENSOR = {"name": "inputs", "datatype": "FP32", "shape": [0, 4]}
AS_BYTES = json.dumps(
    {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 0}}], "parameters": {"binary_data_output": True}}
).encode()
INFER, TFSERVING = "/v2/models/affine/infer", "/v1/models/affine:predict"


def npy(shape):
    writer = io.BytesIO()
    numpy.save(writer, numpy.empty(shape, numpy.float32))
    return writer.getvalue()


@pytest.mark.parametrize(
    ("path", "asked", "key", "expected"),
    [
        ("/predict", {"inputs": []}, "outputs", []),
        (TFSERVING, {"instances": []}, "predictions", []),
        (TFSERVING, {"inputs": []}, "outputs", []),
        ("/predictions/affine", [], None, []),
        (INFER, {"inputs": [{**TENSOR, "data": []}]}, "outputs", [{"shape": [0, 2], "data": []}]),
    ],
)
def test_json(server, path, asked, key, expected):
    with Wire(server.port) as wire:
        answer = wire.ask(post(json.dumps(asked).encode(), path=path))
        found = json.loads(answer.body)
        assert answer.status == 200, found
        outputs = found if key is None else found[key]
        if path == INFER:
            outputs = [{key: output[key] for key in ("shape", "data")} for output in outputs]
        assert outputs == expected


def test_bytes(server):
    with Wire(server.port) as wire:
        length = f"Inference-Header-Content-Length: {len(AS_BYTES)}"
        answer = wire.ask(post(AS_BYTES, length, path=INFER))
        assert answer.status == 200, answer.body
        assert json.loads(answer.body)["outputs"][0]["shape"] == [0, 2]
        answer = wire.ask(post(npy((0, 4)), "Accept: application/x-npy"))
        assert numpy.load(io.BytesIO(answer.body)).shape == (0, 2)


@pytest.mark.parametrize("body", [json.dumps({"inputs": [[]]}).encode(), npy((0, 3)), npy((0,)), npy((1, 0))])
def test_other_shapes_without_numbers_are_refused(server, body):
    with Wire(server.port) as wire:
        assert wire.ask(post(body)).status == 422


@pytest.mark.parametrize("path", [TFSERVING, "/v1/models/affine/versions/1:predict", "/v1/models/no:predict"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_the_path_of_a_prediction_is_only_posted_to(server, path, method):
    with Wire(server.port) as wire:
        wire.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = wire.read(method)
        assert answer.status == 405
        assert "POST" in answer.headers["allow"]
