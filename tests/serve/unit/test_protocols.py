"""Every protocol through Flask's own client: the routes, the handlers and the codecs, without gunicorn and torch."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pytest
from predictors import Times, go_live

from serve.codec import npy, safetensors
from serve.errors import InputError
from serve.gateway.flask_app import create_app
from serve.gateway.routes import ROUTES
from serve.http.drain import EXTENSION
from serve.model.answers import ArrayForm
from serve.settings.settings import load_settings

TOML = """
[models.m]
model = "m:M"
checkpoints = "m"
[models.m.canary]
checkpoints = "canary"
share = 0.0
[models.late]
model = "m:M"
checkpoints = "late"
"""
INPUT = {"name": "inputs", "datatype": "FP32", "shape": [2], "data": [1, 2.5]}
BOTH = {"inputs": [1, 2.5]}


class Named(Times):
    """Takes a number and a text by name, and an image."""

    expected_shape = ()
    inputs = (ArrayForm("x", "float32", (None,)), ArrayForm("t", "text", (None,)))
    outputs = (ArrayForm("y", "float32", (None,)), ArrayForm("word", "text", (None,)))
    takes_images = True

    def prepare(self, inputs):
        return inputs["x"], inputs["t"]

    def prepare_arrays(self, arrays):
        return arrays["x"].tolist(), arrays["t"].tolist()

    def prepare_image(self, pixels):
        return [float(pixels.sum())], ["image"]

    def run(self, taken):
        return [2 * number for number in taken[0]], [text.upper() for text in taken[1]]

    def postprocess(self, given):
        return {"y": given[0], "word": given[1]}

    def postprocess_arrays(self, given):
        return {"y": np.array(given[0], "f4"), "word": np.array(given[1], object)}


class Endless(Times):
    def run(self, taken):
        return np.array([np.inf], "f4")


@pytest.fixture
def app(tmp_path):
    (tmp_path / "serve.toml").write_text(TOML)
    app = create_app(load_settings({}, tmp_path))
    model = app.extensions[EXTENSION].models["m"]
    go_live(model.labels["stable"], version="3", generation=4)
    go_live(model.labels["canary"], Times(3), version="4", generation=1)
    return app


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def be(app):
    """A function that makes another predictor live."""
    stable = app.extensions[EXTENSION].models["m"].stable
    return lambda predictor: go_live(stable, predictor, version="5", generation=5)


def infer(client, *inputs, path="/v2/models/m/infer", headers=None, **rest):
    return client.post(path, json={"inputs": list(inputs), **rest}, headers=headers)


def test_v2_infer(client):
    found = infer(client, INPUT, id="7")
    assert found.json == {
        "model_name": "m",
        "model_version": "3",
        "id": "7",
        "parameters": {
            "model_generation": 4,
            "model_sha256": "a" * 64,
            "model_label": "stable",
            "env_digest": "d",
        },
        "outputs": [{"name": "outputs", "datatype": "FP32", "shape": [2], "data": [2, 5]}],
    }
    assert (found.headers["X-Model-Version"], found.headers["X-Model-SHA256"]) == ("3", "a" * 64)


def test_v2_infer_in_bytes(client):
    head = json.dumps(
        {
            "inputs": [{**INPUT, "data": None, "parameters": {"binary_data_size": 8}}],
            "parameters": {"binary_data_output": True},
        }
    )
    head = head.replace('"data": null, ', "").encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    body = head + np.array([1, 2.5], "<f4").tobytes()
    for sent, more in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
        found = client.post("/v2/models/m/infer", data=sent, headers={**headers, **more})
        assert found.status_code == 200, found.json
        length = int(found.headers["Inference-Header-Content-Length"])
        assert json.loads(found.data[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
        assert np.frombuffer(found.data[length:], "<f4").tolist() == [2, 5]


def test_v2_raw(client, be):
    headers = {"Inference-Header-Content-Length": "0"}
    found = client.post("/v2/models/m/infer", data=np.array([1, 2.5], "<f4").tobytes(), headers=headers)
    assert np.frombuffer(found.data[int(found.headers["Inference-Header-Content-Length"]) :], "<f4").tolist() == [2, 5]
    be(Named())
    found = client.post("/v2/models/m/infer", data=b"1234", headers=headers)
    assert (found.status_code, found.json["error"]) == (
        400,
        "Inference-Header-Content-Length: expected 0 only for a model of one input, found a model of x, t",
    )


def test_v2_texts_and_outputs_by_name(client, be):
    be(Named())
    inputs = [{"name": "t", "datatype": "BYTES", "shape": [1], "data": ["ä"]}, {**INPUT, "name": "x"}]
    found = infer(client, *inputs, outputs=[{"name": "word"}])
    assert found.json["outputs"] == [{"name": "word", "datatype": "BYTES", "shape": [1], "data": ["Ä"]}]
    found = infer(client, *inputs, outputs=[{"name": "z"}])
    assert (found.status_code, found.json["error"]) == (400, "outputs: expected of y, word, found 'z'")
    assert found.headers["X-Model-Version"] == "5"


def test_v2_outputs_that_json_cannot_hold(client, be):
    be(Endless())
    found = infer(client, INPUT)
    assert (found.status_code, found.json["error"]) == (
        422,
        "the outputs for these inputs: outputs (outputs): expected finite numbers, found NaN or infinity",
    )
    assert infer(client, INPUT, parameters={"binary_data_output": True}).status_code == 200


def test_values_that_the_model_finds_unknown(client, be):
    class Choosy(Times):
        def run(self, taken):
            raise InputError("the inputs: expected others")

    be(Choosy())
    for path, body in (("/predict/m", BOTH), ("/v2/models/m/infer", {"inputs": [INPUT]})):
        found = client.post(path, json=body)
        assert (found.status_code, found.json) == (422, {"error": "the inputs: expected others"})


@pytest.mark.parametrize(
    ("path", "headers", "version"),
    [
        ("/v2/models/m/versions/4/infer", {}, "4"),
        ("/v2/models/m/infer", {"X-Model-Label": "canary"}, "4"),
        ("/v2/models/m/versions/3/infer", {}, "3"),
    ],
)
def test_v2_versions_and_labels(client, path, headers, version):
    assert infer(client, INPUT, path=path, headers=headers).json["model_version"] == version


def test_v2_statistics(client):
    before = client.get("/v2/models/m/stats").json["model_stats"][0]["inference_stats"]
    for inputs in ([INPUT], [INPUT], []):
        infer(client, *inputs)
    found = client.get("/v2/models/stats").json
    assert found["model_stats"][:1] == client.get("/v2/models/m/versions/3/stats").json["model_stats"]
    after = found["model_stats"][0]
    assert (after["name"], after["version"]) == ("m", "3")
    gained = {key: after["inference_stats"][key]["count"] - before[key]["count"] for key in before}
    assert gained == {"success": 2, "fail": 1, "queue": 3}
    assert after["inference_stats"]["success"]["ns"] > before["success"]["ns"]
    assert client.get("/v2/models/n/stats").status_code == 404


def test_v2_says_what_it_is(client):
    assert client.get("/v2").json == client.get("/v2/").json
    extensions = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
    assert client.get("/v2").json["extensions"] == extensions
    assert client.get("/v2/models/m").json == {
        "name": "m",
        "versions": ["3", "4"],
        "platform": "envserve_pytorch",
        "inputs": [{"name": "inputs", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "outputs", "datatype": "FP32", "shape": [-1]}],
        "properties": {
            "model_generation": "4",
            "model_sha256": "a" * 64,
            "model_label": "stable",
            "model_version": "3",
            "env_digest": "d",
        },
    }
    assert client.get("/v2/models/m/versions/4").json["properties"]["model_label"] == "canary"
    assert client.get("/v2/models/m/config").json["input"] == [
        {"name": "inputs", "data_type": "TYPE_FP32", "dims": [-1]}
    ]
    for path in ("/v2/models/m/ready", "/v2/models/m/versions/4/ready"):
        assert client.get(path).json == {"name": "m", "ready": True}


def test_v2_repository(client, app):
    listed = client.post("/v2/repository/index").json
    assert [(entry["name"], entry["version"], entry["state"]) for entry in listed] == [
        ("m", "3", "READY"),
        ("m", "4", "READY"),
        ("late", "", "UNAVAILABLE"),
    ]
    assert len(client.post("/v2/repository/index", json={"ready": True}).json) == 2
    assert client.post("/v2/repository/models/m/load").status_code == 200
    assert client.post("/v2/repository/models/m/load", json={"parameters": {"config": "{}"}}).status_code == 400
    found = client.post("/v2/repository/models/m/unload", json={})
    assert (found.status_code, "expected to be served" in found.json["error"]) == (400, True)


def test_tensorflow_serving(client, be):
    assert client.post("/v1/models/m:predict", json={"instances": [1, 2.5]}).json == {"predictions": [2, 5]}
    assert client.post("/v1/models/m:predict", json={"inputs": {"inputs": [1]}}).json == {"outputs": [2]}
    for path in ("versions/4", "labels/canary"):
        found = client.post(f"/v1/models/m/{path}:predict", json={"inputs": [1]})
        assert (found.json, found.headers["X-Model-Version"]) == ({"outputs": [3]}, "4")
    be(Named())
    found = client.post("/v1/models/m:predict", json={"instances": [{"x": 1, "t": "a"}, {"x": 2, "t": "b"}]})
    assert found.json == {"predictions": [{"y": 2, "word": "A"}, {"y": 4, "word": "B"}]}
    assert client.post("/v1/models/m:predict", json={"instances": []}).json == {"predictions": []}
    status = client.get("/v1/models/m").json
    assert [(each["version"], each["state"]) for each in status["model_version_status"]] == [
        ("4", "AVAILABLE"),
        ("5", "AVAILABLE"),
    ]
    assert client.get("/v1/models/m/versions/4").json["model_version_status"][0]["version"] == "4"
    signature = client.get("/v1/models/m/metadata").json["metadata"]["signature_def"]["signature_def"]
    assert signature["serving_default"]["inputs"]["t"]["dtype"] == "DT_STRING"


def test_torchserve(client):
    assert client.post("/predictions/m", json=[1, 2.5]).json == [2, 5]
    assert client.put("/predictions/m/4", json={"data": [1]}).json == [3]
    assert [model["modelName"] for model in client.get("/models").json["models"]] == ["m", "late"]
    assert client.get("/models/m/4").json[0]["modelVersion"] == "4"
    assert client.get("/ping").status_code == 503  # the model `late` is


def test_predict_with_arrays(client):
    array = np.array([1, 2.5], "f4")
    for content_type, body in (
        ("application/x-npy", npy.encode(array)),
        ("application/x-www-form-urlencoded", npy.encode(array)),
        ("application/x-safetensors", safetensors.encode({"inputs": array})),
    ):
        found = client.post("/predict/m", data=body, content_type=content_type)
        assert found.json["outputs"] == [2, 5], content_type
    found = client.post("/predict/m", json=BOTH, headers={"Accept": "application/x-npy"})
    assert (found.content_type, npy.decode(found.data).tolist()) == ("application/x-npy", [2, 5])
    found = client.post("/predict/m", json=BOTH, headers={"Accept": "text/plain, application/x-safetensors;q=0.9"})
    assert safetensors.decode(found.data)["outputs"].tolist() == [2, 5]
    assert found.headers["X-Model-Version"] == "3"


def png():
    pillow = pytest.importorskip("PIL.Image")
    writer = io.BytesIO()
    pillow.new("RGB", (2, 2), (0, 0, 1)).save(writer, "PNG")
    return writer.getvalue()


def test_predict_with_an_image(client, be):
    found = client.post("/predict/m", data=png(), content_type="image/png")
    assert (found.status_code, "image_to_inputs" in found.json["error"]) == (415, True)
    be(Named())
    for path in ("/predict/m", "/predictions/m"):
        found = client.post(path, data=png())
        assert found.json.get("outputs", found.json) == {"y": [8], "word": ["IMAGE"]}


def test_long_answers_are_compressed_for_who_asks(client):
    body = {"inputs": [1] * 9999}
    packed = client.post("/predict/m", json=body, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.data))["outputs"] == [2] * 9999
    assert "Content-Encoding" not in client.post("/predict/m", json=body).headers


REFUSED = {
    "unknown model": ("/v2/models/x/infer", b"{}", {}, 404, "expected m or late, found x"),
    "unknown version": ("/v2/models/m/versions/9/infer", b"{}", {}, 404, "version: expected 4, 3, found 9"),
    "unknown label": ("/v1/models/m/labels/x:predict", b"{}", {}, 404, "label: expected stable, canary, found x"),
    "not live": ("/v2/models/late/infer", b"{}", {}, 503, "no model is live yet"),
    "malformed": ("/v2/models/m/infer", b"{", {}, 400, "expected JSON"),
    "malformed for TF": ("/v1/models/m:predict", b"{", {}, 400, "expected JSON"),
    "malformed for TorchServe": ("/predictions/m", b"{", {}, 400, "expected JSON"),
    "malformed natively": ("/predict/m", b"{", {}, 400, "expected JSON"),
    "NaN": ("/predict/m", b'{"inputs": [NaN]}', {}, 400, "expected JSON"),
    "another key": ("/predict/m", b'{"input": 1}', {}, 422, 'expected {"inputs"'),
    "brotli": ("/v2/models/m/infer", b"x", {"Content-Encoding": "br"}, 415, "found 'br'"),
    "bomb": ("/predict/m", gzip.compress(b"0" * 2**25), {"Content-Encoding": "gzip"}, 413, "at most 16777216"),
    "a form": ("/predict/m", b"x", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "expected JSON or"),
    "not an array": ("/predict/m", b"x", {"Content-Type": "application/x-npy"}, 400, "the .npy body"),
    "not safetensors": ("/predict/m", b"x", {"Content-Type": "application/x-safetensors"}, 400, "the safetensors"),
    "not inputs": ("/predict/m", b'{"inputs": 1}', {}, 422, "expected a list"),
    "options": ("/v2/repository/index", b"[]", {}, 400, "an object or nothing"),
    "ready": ("/v2/repository/index", b'{"ready": 1}', {}, 400, "true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(client, name):
    path, body, headers, status, message = REFUSED[name]
    found = client.post(path, data=body, headers=headers)
    assert (found.status_code, found.content_type) == (status, "application/json")
    assert message in found.json["error"]


ADMIN = {route.pattern for route in ROUTES if route.pattern.startswith("/admin")}  # without a token there is nothing


@pytest.mark.parametrize("pattern", sorted({route.pattern for route in ROUTES if "<name>" in route.pattern} - ADMIN))
def test_an_unknown_model_is_404_on_every_route(client, pattern):
    for method in {route.method for route in ROUTES if route.pattern == pattern}:
        path = pattern.replace("<name>", "unknown").replace("<version>", "1").replace("<label>", "stable")
        found = client.open(path, method=method, data=b"{}")
        assert (found.status_code, "unknown" in found.json["error"]) == (404, True), method
