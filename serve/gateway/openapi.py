"""`GET /openapi.json`: this server's interface as an OpenAPI 3.1 file, made from the table of routes.

Every route is in it: its summary is the first line of its handler, its parameters are those of its path. What a request
and its answer look like is in `BODIES`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from serve.checkpoint.provenance import version
from serve.codec import image, npy, safetensors
from serve.codec.datatypes import DTYPES
from serve.http.messages import Request, Response, Route, succeed

# By module of the handlers, or by module and name; a tag may be a client's directory, and stays.
_TAGS = {
    "native": "predict", "oip": "v2_model", "oip_infer": "v2", "oip_repository": "v2_repository",
    "oip_repository_statistics": "v2_statistics", "health": "status", "monitoring": "sight",
}  # fmt: skip
_PART = re.compile(r"<(\w+)>")
_PROVENANCE = (
    "X-Model-Name", "X-Model-Version", "X-Model-Generation", "X-Model-SHA256", "X-Model-Label", "X-Env-Digest",
)  # fmt: skip
_REFUSALS = {
    "400": "the request is malformed; the error states what was expected and what was found",
    "404": "no such model, version or label is served",
    "413": "the body is too long, as it came or when decompressed",
    "415": "the body comes in a form that this server does not read",
    "422": "the request is well formed and does not fit the model",
    "503": "no model is live yet, or there is no room for the request now",
}


def handler(read_routes: Callable[[], Sequence[Route[Any, Any]]]) -> Callable[[object, Request], Response]:
    """Make the handler; the routes are read with each request, since it is one of them itself."""

    def openapi(server: object, request: Request) -> Response:
        """Describe this interface."""
        return succeed(describe(read_routes()))

    return openapi


def describe(routes: Sequence[Route[Any, Any]]) -> dict[str, Any]:
    """Write the file."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_PART.sub(r"{\1}", route.pattern), {})[route.method.lower()] = _operation(route)
    error = _json(_ref("Error"))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "envserve",
            "version": version(),
            "description": "Predictions of PyTorch models that are replaced while requests flow. Answers of models "
            "carry, as headers, which bytes and which environment computed them.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": {code: {"description": _REFUSALS[code], "content": error} for code in _REFUSALS},
        },
    }


def _operation(route: Route[Any, Any]) -> dict[str, Any]:
    handler = route.handle
    module = handler.__module__.rpartition(".")[2]
    name = f"{module}_{handler.__name__}"
    shape = BODIES.get(name, Shape(answer={"*/*": {}}))
    success: dict[str, Any] = {"description": "done", "content": shape.answer}
    if shape.is_of_model:
        success["headers"] = {name: {"schema": {"type": "string"}} for name in _PROVENANCE}
    refusals = {code: {"$ref": f"#/components/responses/{code}"} for code in _REFUSALS}
    operation: dict[str, Any] = {
        "operationId": route.method.lower() + re.sub(r"\W+", "_", route.pattern),
        "tags": [_TAGS.get(name, _TAGS.get(module, module))],
        "summary": (inspect.getdoc(handler) or name).splitlines()[0],
        "parameters": [
            {"name": part, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for part in _PART.findall(route.pattern)
        ],
        "responses": {"200": success, **refusals},
    }
    if shape.request:
        operation["requestBody"] = {"required": shape.is_required, "content": shape.request}
    return operation


Schema = Mapping[str, Any]
_JSON = "application/json"
_BINARY = "application/octet-stream"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> dict[str, Any]:
    return {_JSON: {"schema": schema}}


def _object(optional: Mapping[str, Schema] | None = None, /, **required: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _fields(optional: Mapping[str, Schema] | None = None, /, **required: Schema) -> dict[str, Any]:
    return _json(_object(optional, **required))


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_TRUTH: Schema = {"type": "boolean"}
_ANY: Schema = {}
_OBJECT: Schema = {"type": "object"}
_LENGTHS = _list({"type": "integer", "minimum": 0})
_OPEN_LENGTHS = _list({"type": "integer", "minimum": -1})
_DATATYPE: Schema = {"type": "string", "enum": [*DTYPES, "BF16", "BYTES"]}
_STATE: Schema = {"type": "string", "enum": ["UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"]}

_NAME: Schema = {"type": "string", "minLength": 1}
_INTEGER: Schema = {"type": "integer"}
_MORE = {"data": {"type": "array"}, "parameters": _OBJECT}

SCHEMAS: Mapping[str, Schema] = {
    "Error": _object(error=_TEXT),
    "Provenance": _object(
        name=_TEXT, version=_TEXT, generation=_INTEGER, sha256=_TEXT, env_digest=_TEXT_OR_NULL, label=_TEXT
    ),
    "InputTensor": _object(_MORE, name=_NAME, shape=_LENGTHS, datatype=_DATATYPE),
    "RequestedOutput": _object({"parameters": _OBJECT}, name=_NAME),
    "InferRequest": _object(
        {"id": _TEXT, "outputs": _list(_ref("RequestedOutput")), "parameters": _OBJECT},
        inputs={**_list(_ref("InputTensor")), "minItems": 1},
    ),
    "OutputTensor": _object(_MORE, name=_TEXT, shape=_LENGTHS, datatype=_DATATYPE),
    "InferAnswer": _object(
        {"id": _TEXT, "parameters": _OBJECT}, model_name=_TEXT, model_version=_TEXT, outputs=_list(_ref("OutputTensor"))
    ),
    "TensorSpec": _object(name=_TEXT, datatype=_DATATYPE, shape=_OPEN_LENGTHS),
    "ModelConfigTensor": _object(name=_TEXT, data_type=_TEXT, dims=_OPEN_LENGTHS),
    "IndexEntry": _object(name=_TEXT, version=_TEXT, state=_STATE, reason=_TEXT, label=_TEXT),
}
# The bytes of tensors follow the JSON; the header Inference-Header-Content-Length says where they begin.
_INFER_ANSWER = {**_json(_ref("InferAnswer")), _BINARY: {}}
_TENSORS: Schema = {name: {} for name in (npy.CONTENT_TYPES[0], safetensors.CONTENT_TYPES[0])}
_IMAGES: Schema = {name: {} for name in image.CONTENT_TYPES}
_METADATA = {"versions": _list(_TEXT), "properties": _OBJECT}
_SPECS = _list(_ref("TensorSpec"))
_CONFIGS = _list(_ref("ModelConfigTensor"))


@dataclass(frozen=True)
class Shape:
    """The bodies of a route."""

    request: Mapping[str, Any] = field(default_factory=dict)  # content by media type; none where there is no body
    answer: Mapping[str, Any] = field(default_factory=lambda: {_JSON: {}})  # the same of a success
    is_of_model: bool = False  # whether a success carries the headers that say where it comes from
    is_required: bool = True  # whether the body may not be left out


# By module and name of the handler.
BODIES: Mapping[str, Shape] = {
    "native_predict": Shape(
        {**_fields(inputs=_ANY), **_TENSORS, **_IMAGES},
        {**_fields(outputs=_ANY, model=_ref("Provenance")), **_TENSORS},
        is_of_model=True,
    ),
    "health_livez": Shape(answer=_fields(live=_TRUTH)),
    "health_readyz": Shape(answer=_fields(ready=_TRUTH)),
    "health_model": Shape(answer=_json(_ref("Provenance")), is_of_model=True),
    "oip_infer": Shape({**_json(_ref("InferRequest")), _BINARY: {}}, _INFER_ANSWER, is_of_model=True),
    "oip_server_metadata": Shape(answer=_fields(name=_TEXT, version=_TEXT, extensions=_list(_TEXT))),
    "oip_model_metadata": Shape(
        answer=_fields(_METADATA, name=_TEXT, platform=_TEXT, inputs=_SPECS, outputs=_SPECS), is_of_model=True
    ),
    "oip_model_ready": Shape(answer=_fields(name=_TEXT, ready=_TRUTH)),
    "oip_model_config": Shape(
        answer=_fields(name=_TEXT, max_batch_size=_INTEGER, input=_CONFIGS, output=_CONFIGS), is_of_model=True
    ),
    "oip_repository_statistics": Shape(answer=_fields(model_stats=_list(_OBJECT))),
    "oip_repository_index": Shape(_fields({"ready": _TRUTH}), _json(_list(_ref("IndexEntry"))), is_required=False),
    "oip_repository_load": Shape(_json(_OBJECT), _fields(name=_TEXT, state=_STATE), is_required=False),
    "oip_repository_unload": Shape(_json(_OBJECT), is_required=False),
    "tfserving_predict": Shape(
        _json(
            {
                "type": "object",
                "properties": {"instances": _list(_ANY), "inputs": _ANY, "signature_name": _TEXT},
                "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
            }
        ),
        _json({"oneOf": [_object(predictions=_ANY), _object(outputs=_ANY)]}),
        is_of_model=True,
    ),
    "tfserving_status": Shape(answer=_fields(model_version_status=_list(_OBJECT), ready=_TRUTH)),
    "tfserving_metadata": Shape(answer=_fields(model_spec=_OBJECT, metadata=_OBJECT), is_of_model=True),
    "torchserve_predictions": Shape({**_json(_ANY), **_TENSORS, **_IMAGES}, is_of_model=True),
    "torchserve_ping": Shape(answer=_fields(status=_TEXT)),
    "torchserve_models": Shape(answer=_fields(models=_list(_OBJECT))),
    "torchserve_model": Shape(answer=_json(_list(_OBJECT)), is_of_model=True),
}
