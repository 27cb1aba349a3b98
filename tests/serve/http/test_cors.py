"""Pages of other origins: refused by default, and allowed by a setting, with both workers."""

from __future__ import annotations

import pytest
from serving import Server
from wire import BODY, Wire, post

pytestmark = pytest.mark.needs_torch
PAGE = "Origin: https://a.example"


@pytest.fixture(params=["asgi", "gthread"])
def allowing(tmp_path, trained, request):
    settings = {"worker": request.param, "workers": 1, "cors_origins": "https://a.example"}
    server = Server(tmp_path, trained[0].directory, settings)
    server.wait_live(1, workers=1)
    yield server
    server.stop()


def question(*headers):
    return "\r\n".join(["OPTIONS /predict HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def test_a_page_of_an_allowed_origin(allowing, outputs):
    asks = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type")
    with Wire(allowing.port) as wire:
        wire.send(question(PAGE, *asks))
        told = wire.read("OPTIONS").headers
        assert told["access-control-allow-origin"] == "https://a.example"
        assert "POST" in told["access-control-allow-methods"]
        assert told["access-control-allow-headers"] == "content-type"
        for request, status in ((post(BODY, PAGE), 200), (post(b"{", PAGE), 400), (post(BODY, PAGE, path="/no"), 404)):
            answer = wire.ask(request)
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in wire.ask(post(BODY, "Origin: https://b.example")).headers
        wire.send(question("Origin: https://b.example", *asks))
        assert not [name for name in wire.read("OPTIONS").headers if name.startswith("access-control")]


def test_by_default_no_page_is_allowed(server):
    with Wire(server.port) as wire:
        assert not [name for name in wire.ask(post(BODY, PAGE)).headers if name.startswith("access-control")]


def test_lists_of_models(server):
    assert server.get("/v1/models").json == {"models": ["affine"]}
    listed = server.get("/models?limit=1").json
    assert [model["modelName"] for model in listed["models"]] == ["affine"]
    assert "nextPageToken" not in listed
    assert server.get("/models?limit=0").status == 400
    assert server.get("/models?next_page_token=1").json == {"models": []}
    (only,) = server.get("/models/affine/all").json
    assert (only["modelName"], server.get("/models/none/all").status) == ("affine", 404)
