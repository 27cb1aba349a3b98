"""The Open Inference Protocol (V2): `POST /v2/models/NAME/infer`, with tensors as JSON or as bytes, and metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from serve.checkpoint.provenance import Provenance, version
from serve.codec.datatypes import BYTES, DTYPES, Array, name_of, text_array
from serve.codec.oip import HEADER, InferAnswer, InferRequest, TensorSpec, encode_infer, parse_infer, parse_raw
from serve.errors import RequestError
from serve.http.messages import Body, Request, Response, fail, pack, read_content, succeed
from serve.inference.body_layout import FLAT, MATRIX, BodyLayout, find_numbers, write_bytes, write_flat
from serve.inference.prediction import Dialect, Found, Prediction, Prepare, Registry, ask, describe_selected, select
from serve.model.answers import TEXT, ArrayForm
from serve.model.slot import Generation

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor


def infer(server: Registry, request: Request) -> Response | Prediction:
    """Answer one infer request of the Open Inference Protocol."""
    return ask(server, request, _OipInfer)


class _OipInfer(Dialect):
    _asked = InferRequest(())

    def read(self, predictor: TorchPredictor) -> Prepare:
        body = read_content(self._request, self._limit_bytes)
        asked = self._asked = _parse(body, self._request.headers.get(HEADER.lower()), predictor)
        arrays = {tensor.name: _with_texts(tensor.array, tensor.name) for tensor in asked.inputs}
        return lambda predictor: predictor.prepare_arrays(arrays)

    def write(self, predictor: TorchPredictor, raw: Any, provenance: Provenance) -> Response:
        outputs = predictor.postprocess_arrays(raw)
        found = InferAnswer(provenance.name, provenance.version, outputs, provenance.parameters)
        try:
            headers, parts = encode_infer(found, self._asked)
        except RequestError as error:
            return fail(error.status, error.message)
        return pack(Response(200, headers, parts), self._request)

    def layout(self, predictor: TorchPredictor) -> BodyLayout | None:
        asked, headers = self._asked, self._request.headers
        if asked.id is not None or asked.outputs or len(asked.inputs) != 1 or "content-encoding" in headers:
            return None
        name, datatype, array = asked.inputs[0]
        if array.dtype.kind not in "fiu" or DTYPES.get(datatype) != array.dtype or not array.size:
            return None
        body, write = bytes(self._request.body), write_bytes if asked.is_binary else write_flat
        stated = headers.get(HEADER.lower())
        if stated is not None:  # what is behind the JSON can only be this tensor
            size = array.nbytes
            is_sole = len(body) - int(stated) == size
            return BodyLayout(name, datatype, array.shape, body[:-size], b"", write, size) if is_sole else None
        hole = find_numbers(body)
        if hole is None or hole.probe["inputs"][0].get("data") not in (FLAT, MATRIX) or hole.length != array.size:
            return None
        return BodyLayout(name, datatype, array.shape, hole.before, hole.after, write)


def _parse(body: Body, header_length: str | None, predictor: TorchPredictor) -> InferRequest:
    if header_length is None or header_length.strip() != "0":  # 0: all of the body is one tensor
        return parse_infer(body, header_length)
    specs = specs_of(predictor.inputs)
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs) or "none as arrays"
        raise RequestError(400, f"{HEADER}: expected 0 only for a model of one input, found a model of {names}")
    return parse_raw(body, specs[0])


def _with_texts(array: Array, name: str) -> Array:
    """Make texts of bytes, as models take them."""
    if array.dtype.kind != "O":
        return array
    try:
        texts = [element.decode() for element in array.ravel()]
    except UnicodeDecodeError as error:
        raise RequestError(400, f"{name}: expected texts in UTF-8, found {error.object[:20]!r}") from error
    return text_array(texts).reshape(array.shape)


PLATFORM = "envserve_pytorch"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")


def specs_of(forms: Sequence[ArrayForm]) -> list[TensorSpec]:
    """Describe inputs or outputs as the protocol does, those that it has a datatype for."""
    specs = []
    for form in forms:
        dtype = np.dtype(object if form.dtype == TEXT else form.dtype)
        shape = tuple(-1 if length is None else length for length in form.shape)
        if dtype.kind != "c":
            specs.append(TensorSpec(form.name, name_of(dtype), shape))
    return specs


def server_metadata(server: Registry, request: Request) -> Response:
    """Say what this server is."""
    return succeed({"name": "envserve", "version": version(), "extensions": EXTENSIONS})


def model_ready(server: Registry, request: Request) -> Response:
    """Say whether a model, or a version of it, can answer predictions in this worker."""
    found = select(server, request)
    if found.instance.slot.live is None:
        return fail(503, "no model is live yet", name=found.model.name, ready=False)
    return succeed({"name": found.model.name, "ready": True})


def model_metadata(server: Registry, request: Request) -> Response:
    """Describe a model: its versions, inputs and outputs, and where its answers come from."""
    return describe_selected(server, request, _write_metadata)


def _write_metadata(found: Found, live: Generation) -> Response:
    properties = {**live.provenance.parameters, "model_version": live.provenance.version}
    facts = {
        "name": found.model.name,
        "versions": sorted(found.model.versions),
        "platform": PLATFORM,
        "inputs": [spec.as_json() for spec in specs_of(live.predictor.inputs)],
        "outputs": [spec.as_json() for spec in specs_of(live.predictor.outputs)],
        "properties": {name: str(value) for name, value in properties.items()},
    }
    return succeed(facts)


def model_config(server: Registry, request: Request) -> Response:
    """Describe a model as Triton's model configuration does."""
    return describe_selected(server, request, _write_config)


def _write_config(found: Found, live: Generation) -> Response:
    facts = {
        "name": found.model.name,
        "platform": PLATFORM,
        "backend": "envserve",
        "max_batch_size": 0,  # the shapes below are whole, rows included; a request may have any number of rows
        "input": [_as_config(spec) for spec in specs_of(live.predictor.inputs)],
        "output": [_as_config(spec) for spec in specs_of(live.predictor.outputs)],
    }
    return succeed(facts)


def _as_config(spec: TensorSpec) -> dict[str, object]:
    name = "STRING" if spec.datatype == BYTES else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{name}", "dims": list(spec.shape)}
