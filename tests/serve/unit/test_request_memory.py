"""What looks at a request again sees what its client sent, whatever the model has written meanwhile."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from predictors import go_live, make_server
from trainer import sha256_of

pytestmark = pytest.mark.needs_torch
torch = pytest.importorskip("torch")

import in_place  # noqa: E402
import safetensors.torch  # noqa: E402

from serve.checkpoint.manifest import Manifest  # noqa: E402
from serve.codec import safetensors as codec  # noqa: E402
from serve.http.messages import Request  # noqa: E402
from serve.inference.prediction import complete  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.protocols import native, oip  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402
from serve.store.checkpoint_store import Stored  # noqa: E402

SUPPORT = Path(__file__).parents[1] / "support"
ROWS = ([-3.0, 2.0, -1.0, 60.0], [5.0, -2.0, 0.5, 1.0])


def load(tmp_path, name, how):
    """Load a kind as a server does; return its predictor and a fresh module."""
    torch.manual_seed(1)
    module = getattr(in_place, name)(how).eval()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(module.state_dict(), str(path))
    environ = {"SERVE_MODEL": f"in_place:{name}", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
    settings = load_settings(environ, tmp_path).find()
    loader = ModelLoader(replace(settings, model_args={"how": how}))
    return loader.load(Stored(path, sha256_of(path), path.stat().st_size), Manifest()).predictor, module


def arrays_of(name, row):
    if name == "Changing":
        return {}
    x = numpy.array([row], "float32")
    return {"x": x, "k": numpy.array([[3, 4]])} if name == "Named" else {"inputs": x}


def npy_of(array):
    stream = io.BytesIO()
    numpy.save(stream, array)
    return stream.getvalue()


def requests_of(name, row):
    """One request in every form that it can have."""
    arrays = arrays_of(name, row)
    if name == "Changing":
        inputs = {"x": [row[:3]], "unit": "km"}
    else:
        inputs = {key: array.tolist() for key, array in arrays.items()}
        inputs = inputs if name == "Named" else inputs["inputs"]
    yield "json", native.predict, Request("POST", "/", {}, json.dumps({"inputs": inputs}).encode(), {})
    if not arrays:
        return
    types = {key: "INT64" if array.dtype == numpy.int64 else "FP32" for key, array in arrays.items()}
    described = [{"name": key, "datatype": types[key], "shape": array.shape} for key, array in arrays.items()]
    lists = [{**tensor, "data": arrays[tensor["name"]].ravel().tolist()} for tensor in described]
    yield "v2 json", oip.infer, Request("POST", "/", {}, json.dumps({"inputs": lists}).encode(), {})
    sized = [{**t, "parameters": {"binary_data_size": arrays[t["name"]].nbytes}} for t in described]
    text = json.dumps({"inputs": sized}).encode()
    headers = {"inference-header-content-length": str(len(text))}
    body = text + b"".join(array.tobytes() for array in arrays.values())
    yield "v2 binary", oip.infer, Request("POST", "/", headers, body, {})
    headers = {"content-type": "application/x-safetensors"}
    yield "safetensors", native.predict, Request("POST", "/", headers, codec.encode(arrays), {})
    if len(arrays) == 1:
        yield "npy", native.predict, Request("POST", "/", {}, npy_of(arrays["inputs"]), {})


def outputs_of(body):
    content = json.loads(body if isinstance(body, bytes) else b"".join(body))
    if isinstance(content["outputs"][0], dict):
        return numpy.array(content["outputs"][0]["data"])
    return numpy.array(content["outputs"]).ravel()


def right_answer(name, module, row):
    """What a fresh module and a fresh array of its own give."""
    if name == "Changing":
        return module(module.inputs_to_tensors({"x": [row[:3]], "unit": "km"})).detach().numpy().ravel()
    with torch.no_grad():
        tensors = {key: torch.from_numpy(array.copy()) for key, array in arrays_of(name, row).items()}
        raw = (module(**tensors) if name == "Named" else module(tensors["inputs"])).clone()
    return numpy.array(module.tensors_to_outputs(raw) if name == "Converting" else raw.tolist()).ravel()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "how"), in_place.KINDS)
def test_whoever_looks_again_sees_what_came(tmp_path, name, how):
    predictor, module = load(tmp_path, name, how)
    server = make_server(tmp_path)
    go_live(server.find(None).stable, predictor)
    right = [right_answer(name, module, row) for row in ROWS]
    for (form, handler, request), (_, _, other) in zip(requests_of(name, ROWS[0]), requests_of(name, ROWS[1])):
        before = bytes(bytearray(request.body))  # not the same object
        found, beside = handler(server, request), handler(server, other)
        raw, its = found.run(), beside.run()
        again = predictor.postprocess(predictor.run(found.prepare(predictor)))
        for prediction, given, expected in ((found, raw, right[0]), (beside, its, right[1])):
            predictor.postprocess(given)  # as a trial and a shadow do
            assert outputs_of(prediction.answer(given).body) == pytest.approx(expected, rel=1e-5), form
        assert numpy.array(again).ravel() == pytest.approx(right[0], rel=1e-5), form
        assert request.body == before, form
        assert outputs_of(complete(handler(server, request)).body) == pytest.approx(right[0], rel=1e-5), form
    assert predictor.versions.written() == []


def test_what_no_trial_shows_is_remembered_when_it_shows(tmp_path):
    class Rarely(in_place.Writing):
        def forward(self, x):
            return self.layer(x.mul_(2) if bool((x == 777).any()) else x)

    in_place.Rarely = Rarely
    predictor, _ = load(tmp_path, "Rarely", "mul_")
    body = numpy.array([[777.0, 1, 2, 3]], "float32")
    assert not predictor.memory.inputs
    predictor.run(predictor.prepare_arrays({"inputs": body.copy()}))
    assert predictor.memory.inputs
    predictor.run(predictor.prepare_arrays({"inputs": body}))
    assert body[0, 0] == 777


@pytest.mark.parametrize("name", ["Affine", "Masked", "Whole"])
def test_a_model_that_writes_nowhere_gets_no_copies(tmp_path, name):
    import affine

    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(getattr(affine, name)().state_dict(), str(path))
    environ = {"SERVE_MODEL": f"affine:{name}", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
    loader = ModelLoader(load_settings(environ, tmp_path).find())
    memory = loader.load(Stored(path, sha256_of(path), path.stat().st_size), Manifest()).predictor.memory
    assert not any(vars(memory).values())
