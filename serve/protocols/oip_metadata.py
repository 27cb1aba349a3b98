"""The metadata of a server and its models in the Open Inference Protocol (V2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serve.codec.datatypes import BYTES, name_of
from serve.codec.oip_request import TensorSpec
from serve.errors import NotServedError
from serve.http.messages import Request, Response, fail, succeed
from serve.inference.model_selector import Found, describe, find
from serve.inference.registry import Registry
from serve.model.predictor import TEXT, ArrayForm
from serve.model.slot import Generation
from serve.system.distribution import version

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
    try:
        found = find(server, request)
    except NotServedError as error:
        return fail(404, error.message)
    if found.instance.slot.live is None:
        return fail(503, "no model is live yet", name=found.model.name, ready=False)
    return succeed({"name": found.model.name, "ready": True})


def model_metadata(server: Registry, request: Request) -> Response:
    """Describe a model: its versions, inputs and outputs, and where its answers come from."""
    return describe(server, request, _write_metadata)


def _write_metadata(found: Found, live: Generation) -> Response:
    properties = {**live.provenance.parameters, "model_version": live.provenance.version}
    return succeed(
        {
            "name": found.model.name,
            "versions": sorted(found.model.versions),
            "platform": PLATFORM,
            "inputs": [spec.as_json() for spec in specs_of(live.predictor.inputs)],
            "outputs": [spec.as_json() for spec in specs_of(live.predictor.outputs)],
            "properties": {name: str(value) for name, value in properties.items()},
        }
    )


def model_config(server: Registry, request: Request) -> Response:
    """Describe a model as Triton's model configuration does."""
    return describe(server, request, _write_config)


def _write_config(found: Found, live: Generation) -> Response:
    return succeed(
        {
            "name": found.model.name,
            "platform": PLATFORM,
            "backend": "envserve",
            # 0: the shapes below are whole, rows included; a request may have any number of rows.
            "max_batch_size": 0,
            "input": [_as_config(spec) for spec in specs_of(live.predictor.inputs)],
            "output": [_as_config(spec) for spec in specs_of(live.predictor.outputs)],
        }
    )


def _as_config(spec: TensorSpec) -> dict[str, object]:
    name = "STRING" if spec.datatype == BYTES else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{name}", "dims": list(spec.shape)}
