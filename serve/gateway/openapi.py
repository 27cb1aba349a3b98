"""`GET /openapi.json`: this server's interface as an OpenAPI 3.1 file, made from the table of routes.

Every route is in it: its summary is the first line of its handler, its parameters are those of its path. What a
request and its answer look like is in `serve.gateway.openapi_schemas`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any, Callable

from serve.gateway.openapi_schemas import BODIES, SCHEMAS, Shape
from serve.http.messages import Request, Response, succeed
from serve.http.route import Route
from serve.system.distribution import version

# By module of the handlers; a tag may be a client's directory, and stays.
_TAGS = {
    "native": "predict",
    "oip_infer": "v2",
    "oip_metadata": "v2_model",
    "oip_repository": "v2_repository",
    "oip_statistics": "v2_statistics",
    "health": "status",
    "monitoring": "sight",
}
_PART = re.compile(r"<(\w+)>")
_PROVENANCE = (
    "X-Model-Name",
    "X-Model-Version",
    "X-Model-Generation",
    "X-Model-SHA256",
    "X-Model-Label",
    "X-Env-Digest",
)
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
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "envserve",
            "version": version(),
            "description": "Predictions of PyTorch models that are replaced while requests flow. Answers of models "
            "carry, as headers, which bytes and which environment computed them.",
        },
        "paths": paths,
        "components": {"schemas": SCHEMAS, "responses": {code: _refusal(text) for code, text in _REFUSALS.items()}},
    }


def _operation(route: Route[Any, Any]) -> dict[str, Any]:
    handler = route.handle
    module = handler.__module__.rpartition(".")[2]
    name = f"{module}_{handler.__name__}"
    shape = BODIES.get(name, Shape(answer={"*/*": {}}))
    refusals = {code: {"$ref": f"#/components/responses/{code}"} for code in _REFUSALS}
    operation: dict[str, Any] = {
        "operationId": route.method.lower() + re.sub(r"\W+", "_", route.pattern),
        "tags": [_TAGS.get(module, module)],
        "summary": (inspect.getdoc(handler) or name).splitlines()[0],
        "parameters": [
            {"name": part, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for part in _PART.findall(route.pattern)
        ],
        "responses": {"200": _success(shape), **refusals},
    }
    if shape.request:
        operation["requestBody"] = {"required": shape.is_required, "content": shape.request}
    return operation


def _success(shape: Shape) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "done", "content": shape.answer}
    if shape.is_of_model:
        success["headers"] = {name: {"schema": {"type": "string"}} for name in _PROVENANCE}
    return success


def _refusal(text: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
