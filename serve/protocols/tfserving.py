"""TensorFlow Serving's REST interface: `POST /v1/models/NAME:predict`, status and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.checkpoint.provenance import Provenance
from serve.codec.oip_request import TensorSpec
from serve.codec.tfserving import PredictRequest, encode_predict, parse_predict
from serve.errors import NotServedError
from serve.http.body import pack, read_content
from serve.http.messages import Request, Response, fail, succeed
from serve.inference.model_selector import Found, describe, find
from serve.inference.prediction import Prediction, Take, ask
from serve.inference.registry import Registry
from serve.model.predictor import INPUTS, OUTPUTS, Predictor
from serve.model.slot import Generation
from serve.protocols.oip_metadata import specs_of

_DTYPES = {"FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING"}


def predict(server: Registry, request: Request) -> Response | Prediction:
    """Answer one predict request of TensorFlow Serving."""
    return ask(server, request, _TensorFlowServing(request, server.settings.max_body_bytes))


class _TensorFlowServing:
    def __init__(self, request: Request, limit_bytes: int) -> None:
        self._request, self._limit_bytes = request, limit_bytes
        self._asked = PredictRequest({}, is_by_row=True)

    def read(self, request: Request, predictor: Predictor) -> Take:
        asked = self._asked = parse_predict(bytes(read_content(request, self._limit_bytes)))
        inputs, names = asked.columns.get("", asked.columns), {form.name for form in predictor.inputs}
        if set(asked.columns) == {INPUTS} == names:
            inputs = asked.columns[INPUTS]
        elif inputs == [] and names - {INPUTS}:  # no examples, which would name the inputs
            inputs = dict.fromkeys(names, inputs)
        return lambda predictor: predictor.prepare(inputs)

    def write(self, predictor: Predictor, given: Any, provenance: Provenance) -> Response:
        outputs = predictor.postprocess(given)
        named: Mapping[str, object] = outputs if isinstance(outputs, Mapping) else {OUTPUTS: outputs}
        headers = {"Content-Type": "application/json"}
        return pack(Response(200, headers, encode_predict(named, self._asked)), self._request)

    def refuse(self, status: int, message: str, predictor: Predictor) -> Response:
        return fail(status, message)

    def layout(self, predictor: Predictor) -> None:
        return None


def models(server: Registry, request: Request) -> Response:
    """List the models, as KServe's first protocol does."""
    return succeed({"models": list(server.models)})


def status(server: Registry, request: Request) -> Response:
    """Say which versions of a model are served."""
    if request.path.endswith(":predict"):  # a prediction's path, in which the router finds a longer name
        return fail(405, f"the method: expected POST, found {request.method}", {"Allow": "OPTIONS, POST"})
    try:
        found = find(server, request)
    except NotServedError as error:
        return fail(404, error.message)
    live = found.instance.slot.live
    named = [live.provenance.version] if live is not None else []
    versions = found.model.versions if len(request.place) == 1 else named
    states = [
        {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for version in versions
    ]
    # The last two are what KServe's first protocol answers at the same path.
    return succeed({"model_version_status": states, "name": found.model.name, "ready": bool(states)})


def metadata(server: Registry, request: Request) -> Response:
    """Describe the signature of a model."""
    return describe(server, request, _write_metadata)


def _write_metadata(found: Found, live: Generation) -> Response:
    signature = {
        "inputs": {spec.name: _as_info(spec) for spec in specs_of(live.predictor.inputs)},
        "outputs": {spec.name: _as_info(spec) for spec in specs_of(live.predictor.outputs)},
        "method_name": "tensorflow/serving/predict",
    }
    return succeed(
        {
            "model_spec": {"name": found.model.name, "signature_name": "", "version": live.provenance.version},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }
    )


def _as_info(spec: TensorSpec) -> dict[str, object]:
    dims = [{"size": str(length), "name": ""} for length in spec.shape]
    return {
        "name": spec.name,
        "dtype": _DTYPES.get(spec.datatype, f"DT_{spec.datatype}"),
        "tensor_shape": {"dim": dims, "unknown_rank": False},
    }
