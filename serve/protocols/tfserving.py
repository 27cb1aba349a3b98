"""TensorFlow Serving's REST interface ("RESTful API"): `POST /v1/models/NAME:predict`, status and metadata.

`instances` lists the examples and is answered by `predictions`; `inputs` holds columns and is answered by `outputs`.
Bytes come as `{"b64": "…"}`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve.checkpoint.provenance import Provenance
from serve.codec import strict_json
from serve.codec.oip import TensorSpec
from serve.errors import RequestError, excerpt
from serve.http.messages import Request, Response, fail, pack, read_content, succeed
from serve.inference.prediction import Dialect, Found, Prediction, Prepare, Registry, ask, describe_selected, select
from serve.model.answers import INPUTS, OUTPUTS
from serve.model.slot import Generation
from serve.protocols.oip import specs_of

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor

_DTYPES = {"FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING"}


def predict(server: Registry, request: Request) -> Response | Prediction:
    """Answer one predict request of TensorFlow Serving."""
    return ask(server, request, _TensorFlowServing)


class _TensorFlowServing(Dialect):
    _asked: PredictRequest

    def read(self, predictor: TorchPredictor) -> Prepare:
        asked = self._asked = parse_predict(bytes(read_content(self._request, self._limit_bytes)))
        inputs, names = asked.columns.get("", asked.columns), {form.name for form in predictor.inputs}
        if set(asked.columns) == {INPUTS} == names:
            inputs = asked.columns[INPUTS]
        elif inputs == [] and names - {INPUTS}:  # no examples, which would name the inputs
            inputs = dict.fromkeys(names, inputs)
        return lambda predictor: predictor.prepare(inputs)

    def write(self, predictor: TorchPredictor, raw: Any, provenance: Provenance) -> Response:
        outputs = predictor.postprocess(raw)
        named: Mapping[str, object] = outputs if isinstance(outputs, Mapping) else {OUTPUTS: outputs}
        headers = {"Content-Type": "application/json"}
        return pack(Response(200, headers, encode_predict(named, self._asked)), self._request)


def models(server: Registry, request: Request) -> Response:
    """List the models, as KServe's first protocol does."""
    return succeed({"models": list(server.models)})


def status(server: Registry, request: Request) -> Response:
    """Say which versions of a model are served."""
    if request.path.endswith(":predict"):  # a prediction's path, in which the router finds a longer name
        return fail(405, f"the method: expected POST, found {request.method}", {"Allow": "OPTIONS, POST"})
    found = select(server, request)
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
    return describe_selected(server, request, _write_metadata)


def _write_metadata(found: Found, live: Generation) -> Response:
    signature = {
        "inputs": {spec.name: _as_info(spec) for spec in specs_of(live.predictor.inputs)},
        "outputs": {spec.name: _as_info(spec) for spec in specs_of(live.predictor.outputs)},
        "method_name": "tensorflow/serving/predict",
    }
    spec = {"name": found.model.name, "signature_name": "", "version": live.provenance.version}
    metadata = {"signature_def": {"signature_def": {"serving_default": signature}}}
    return succeed({"model_spec": spec, "metadata": metadata})


def _as_info(spec: TensorSpec) -> dict[str, object]:
    dims = [{"size": str(length), "name": ""} for length in spec.shape]
    return {
        "name": spec.name,
        "dtype": _DTYPES.get(spec.datatype, f"DT_{spec.datatype}"),
        "tensor_shape": {"dim": dims, "unknown_rank": False},
    }


_DEFAULT_SIGNATURE = "serving_default"
_KEYS = {"instances", "inputs", "signature_name"}
_B64 = "b64"


@dataclass(frozen=True)
class PredictRequest:
    """A predict request."""

    columns: Mapping[str, object]  # the inputs by name, each with its examples; no name where none is stated
    is_by_row: bool  # whether the answer lists examples (`predictions`), or columns (`outputs`)


def parse_predict(body: bytes) -> PredictRequest:
    """Read a predict request; raises `RequestError` where it is malformed."""
    content = strict_json.parse(body)
    if not isinstance(content, dict) or len({"instances", "inputs"} & set(content)) != 1:
        raise RequestError(400, f"the body: expected an object with instances or inputs, found {excerpt(content)}")
    if not set(content) <= _KEYS:
        raise RequestError(400, f"the body: expected {', '.join(sorted(_KEYS))}, found {excerpt(sorted(content))}")
    signature = content.get("signature_name", _DEFAULT_SIGNATURE)
    if signature not in (_DEFAULT_SIGNATURE, ""):
        raise RequestError(400, f"signature_name: expected {_DEFAULT_SIGNATURE}, found {excerpt(signature)}")
    if _B64.encode() in body or b"\\u" in body:  # it may be written with escapes
        content = _decode_base64(content)
    if "instances" in content:
        return PredictRequest(_to_columns(content["instances"]), is_by_row=True)
    inputs = content["inputs"]
    return PredictRequest(inputs if isinstance(inputs, dict) else {"": inputs}, is_by_row=False)


def _to_columns(instances: object) -> dict[str, object]:
    if not isinstance(instances, list):
        raise RequestError(400, f"instances: expected a list of examples, found {excerpt(instances)}")
    if not instances or not isinstance(instances[0], dict):
        return {"": instances}
    names = set(instances[0])
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict) or set(instance) != names:
            expected = f"expected the names {excerpt(sorted(names))}"
            raise RequestError(400, f"instances[{index}]: {expected}, found {excerpt(instance)}")
    return {name: [instance[name] for instance in instances] for name in sorted(names)}


def _decode_base64(value: object) -> Any:
    if isinstance(value, list):
        # Numbers, which are nearly all of most requests, are passed over.
        return [_decode_base64(part) if isinstance(part, (list, dict)) else part for part in value]
    if isinstance(value, dict):
        if set(value) != {_B64}:
            return {key: _decode_base64(part) for key, part in value.items()}
        text = value[_B64]
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise RequestError(400, f"{_B64}: expected base64, found {excerpt(text)}") from error
    return value


def encode_predict(outputs: Mapping[str, object], request: PredictRequest) -> bytes:
    """Write outputs by name: `predictions` by example, or `outputs` by name; raises `ValueError` for unfit ones."""
    only = next(iter(outputs.values())) if len(outputs) == 1 else None
    if not request.is_by_row:
        return strict_json.dump({"outputs": dict(outputs) if only is None else only})
    if only is not None:
        return strict_json.dump({"predictions": only})
    lengths = {len(values) if isinstance(values, (list, tuple)) else None for values in outputs.values()}
    if None in lengths or len(lengths) != 1:
        raise ValueError(f"expected as many rows in each of {', '.join(outputs)}, found others")
    rows = zip(*outputs.values())
    return strict_json.dump({"predictions": [dict(zip(outputs, row)) for row in rows]})
