"""The schemas of requests and answers for `/openapi.json`, by handler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.codec import image, npy, safetensors
from serve.codec.datatypes import DTYPES

Schema = Mapping[str, Any]
_JSON = "application/json"
_BINARY = "application/octet-stream"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> dict[str, Any]:
    return {_JSON: {"schema": schema}}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TEXT: Schema = {"type": "string"}
_TRUTH: Schema = {"type": "boolean"}
_ANY: Schema = {}
_OBJECT: Schema = {"type": "object"}
_LENGTHS = _list({"type": "integer", "minimum": 0})
_OPEN_LENGTHS = _list({"type": "integer", "minimum": -1})
_DATATYPE: Schema = {"type": "string", "enum": [*DTYPES, "BF16", "BYTES"]}
_STATE: Schema = {"type": "string", "enum": ["UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"]}

SCHEMAS: Mapping[str, Schema] = {
    "Error": _object({"error": _TEXT}),
    "Provenance": _object(
        {
            "name": _TEXT,
            "version": _TEXT,
            "generation": {"type": "integer"},
            "sha256": _TEXT,
            "env_digest": {"type": ["string", "null"]},
            "label": _TEXT,
        }
    ),
    "InputTensor": _object(
        {"name": {"type": "string", "minLength": 1}, "shape": _LENGTHS, "datatype": _DATATYPE},
        {"data": {"type": "array"}, "parameters": _OBJECT},
    ),
    "RequestedOutput": _object({"name": {"type": "string", "minLength": 1}}, {"parameters": _OBJECT}),
    "InferRequest": _object(
        {"inputs": {**_list(_ref("InputTensor")), "minItems": 1}},
        {"id": _TEXT, "outputs": _list(_ref("RequestedOutput")), "parameters": _OBJECT},
    ),
    "OutputTensor": _object(
        {"name": _TEXT, "shape": _LENGTHS, "datatype": _DATATYPE}, {"data": {"type": "array"}, "parameters": _OBJECT}
    ),
    "InferAnswer": _object(
        {"model_name": _TEXT, "model_version": _TEXT, "outputs": _list(_ref("OutputTensor"))},
        {"id": _TEXT, "parameters": _OBJECT},
    ),
    "TensorSpec": _object({"name": _TEXT, "datatype": _DATATYPE, "shape": _OPEN_LENGTHS}),
    "ModelConfigTensor": _object({"name": _TEXT, "data_type": _TEXT, "dims": _OPEN_LENGTHS}),
    "IndexEntry": _object({"name": _TEXT, "version": _TEXT, "state": _STATE, "reason": _TEXT, "label": _TEXT}),
}
# The bytes of tensors follow the JSON; the header Inference-Header-Content-Length says where they begin.
_INFER_ANSWER = {**_json(_ref("InferAnswer")), _BINARY: {}}
_TENSORS: Schema = {name: {} for name in (npy.CONTENT_TYPES[0], safetensors.CONTENT_TYPES[0])}
_IMAGES: Schema = {name: {} for name in image.CONTENT_TYPES}
_SPECS = _list(_ref("TensorSpec"))
_CONFIGS = _list(_ref("ModelConfigTensor"))


@dataclass(frozen=True)
class Shape:
    """The bodies of a route.

    Args:
        request: content of the body by media type; none where there is no body.
        answer: the same of a success.
        is_of_model: whether a success carries the headers that say where it comes from.
        is_required: whether the body may not be left out.
    """

    request: Mapping[str, Any] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=lambda: {_JSON: {}})
    is_of_model: bool = False
    is_required: bool = True


# By module and name of the handler.
BODIES: Mapping[str, Shape] = {
    "native_predict": Shape(
        {**_json(_object({"inputs": _ANY})), **_TENSORS, **_IMAGES},
        {**_json(_object({"outputs": _ANY, "model": _ref("Provenance")})), **_TENSORS},
        is_of_model=True,
    ),
    "health_livez": Shape(answer=_json(_object({"live": _TRUTH}))),
    "health_readyz": Shape(answer=_json(_object({"ready": _TRUTH}))),
    "health_model": Shape(answer=_json(_ref("Provenance")), is_of_model=True),
    "oip_infer_infer": Shape({**_json(_ref("InferRequest")), _BINARY: {}}, _INFER_ANSWER, is_of_model=True),
    "oip_metadata_server_metadata": Shape(
        answer=_json(_object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}))
    ),
    "oip_metadata_model_metadata": Shape(
        answer=_json(
            _object(
                {"name": _TEXT, "platform": _TEXT, "inputs": _SPECS, "outputs": _SPECS},
                {"versions": _list(_TEXT), "properties": _OBJECT},
            )
        ),
        is_of_model=True,
    ),
    "oip_metadata_model_ready": Shape(answer=_json(_object({"name": _TEXT, "ready": _TRUTH}))),
    "oip_metadata_model_config": Shape(
        answer=_json(
            _object({"name": _TEXT, "max_batch_size": {"type": "integer"}, "input": _CONFIGS, "output": _CONFIGS})
        ),
        is_of_model=True,
    ),
    "oip_statistics_statistics": Shape(answer=_json(_object({"model_stats": _list(_OBJECT)}))),
    "oip_repository_index": Shape(
        _json(_object({}, {"ready": _TRUTH})), _json(_list(_ref("IndexEntry"))), is_required=False
    ),
    "oip_repository_load": Shape(_json(_OBJECT), _json(_object({"name": _TEXT, "state": _STATE})), is_required=False),
    "oip_repository_unload": Shape(_json(_OBJECT), is_required=False),
    "tfserving_predict": Shape(
        _json(
            {
                "type": "object",
                "properties": {"instances": _list(_ANY), "inputs": _ANY, "signature_name": _TEXT},
                "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
            }
        ),
        _json({"oneOf": [_object({"predictions": _ANY}), _object({"outputs": _ANY})]}),
        is_of_model=True,
    ),
    "tfserving_status": Shape(answer=_json(_object({"model_version_status": _list(_OBJECT), "ready": _TRUTH}))),
    "tfserving_metadata": Shape(answer=_json(_object({"model_spec": _OBJECT, "metadata": _OBJECT})), is_of_model=True),
    "torchserve_predictions": Shape({**_json(_ANY), **_TENSORS, **_IMAGES}, is_of_model=True),
    "torchserve_ping": Shape(answer=_json(_object({"status": _TEXT}))),
    "torchserve_models": Shape(answer=_json(_object({"models": _list(_OBJECT)}))),
    "torchserve_model": Shape(answer=_json(_list(_OBJECT)), is_of_model=True),
}
