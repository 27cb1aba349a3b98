"""The file at /openapi.json: valid, whole, and true of the answers."""

from __future__ import annotations

import json

import pytest
from predictors import go_live

from serve.gateway.flask_app import create_app
from serve.gateway.openapi import BODIES, describe
from serve.gateway.routes import ROUTES
from serve.http.drain import EXTENSION
from serve.settings.settings import load_settings

validator = pytest.importorskip("openapi_spec_validator")
import jsonschema  # noqa: E402 - comes with the validator

FILE = describe(ROUTES)
TENSOR = {"name": "inputs", "datatype": "FP32", "shape": [1], "data": [1]}
ASKED = {
    "native_predict": {"inputs": [1]},
    "oip_infer": {"inputs": [TENSOR]},
    "tfserving_predict": {"instances": [1]},
    "torchserve_predictions": [1],
}


def name_of(route):
    return f"{route.handle.__module__.rpartition('.')[2]}_{route.handle.__name__}"


def test_it_is_valid_openapi():
    validator.validate(FILE)


def test_tags_stay_as_clients_have_them():
    tags = {path: operation["tags"][0] for path, found in FILE["paths"].items() for operation in found.values()}
    assert set(tags.values()) == {
        *("predict", "v2", "v2_model", "v2_repository", "v2_statistics", "tfserving", "torchserve"),
        *("status", "sight", "openapi", "admin"),
    }
    assert (tags["/predict"], tags["/v2/models/{name}/infer"], tags["/v2"]) == ("predict", "v2", "v2_model")
    assert (tags["/readyz"], tags["/metrics"]) == ("status", "sight")


def test_every_route_is_in_it_once():
    listed = [operation["operationId"] for path in FILE["paths"].values() for operation in path.values()]
    assert len(listed) == len(set(listed)) == len(ROUTES)
    assert set(BODIES) <= {name_of(route) for route in ROUTES}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("server")
    (tmp_path / "serve.toml").write_text('model = "m:M"\ncheckpoints = "ck"\n')
    app = create_app(load_settings({}, tmp_path))
    go_live(app.extensions[EXTENSION].find(None).stable, version="3")
    return app.test_client()


@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if name_of(route) in BODIES],
    ids=lambda route: f"{route.method} {route.pattern}",
)
def test_answers_are_as_it_says(client, route):
    name = name_of(route)
    path = route.pattern.replace("<name>", "M").replace("<version>", "3").replace("<label>", "stable")
    found = client.open(path, method=route.method, data=json.dumps(ASKED.get(name, {})))
    operation = FILE["paths"][route.pattern.replace("<", "{").replace(">", "}")][route.method.lower()]
    told = operation["responses"][str(found.status_code) if found.status_code == 200 else "400"]
    if "$ref" in told:
        told = FILE["components"]["responses"]["400"]
    schema = {**told["content"]["application/json"].get("schema", {}), "components": FILE["components"]}
    jsonschema.validate(found.json, schema)
    assert set(told.get("headers", ())) <= set(found.headers.keys())
    assert name in ("oip_repository_unload", "health_livez") or found.status_code == 200, found.json


def test_it_is_served(client):
    assert client.get("/openapi.json").json == json.loads(json.dumps(FILE))
