"""What clients send, against a real server."""

from __future__ import annotations

import json

import pytest
from serving import HAS_FAST, Server
from trainer import ROW, Trainer

pytestmark = pytest.mark.needs_torch


@pytest.fixture(scope="module", params=["asgi", "gthread"] if HAS_FAST else ["gthread"])
def served(request, tmp_path_factory):
    """A server of each worker class that is only asked, its trainer, and what is live."""
    directory = tmp_path_factory.mktemp("asked")
    trainer = Trainer(directory / "work", directory / "checkpoints")
    published = trainer.publish(1, version="v1")
    server = Server(directory, trainer.directory, {"worker": request.param})
    server.wait_live(1)
    yield server, trainer, published
    server.stop()


def test_an_answer_names_the_bytes_that_produced_it(served):
    server, trainer, published = served
    reply = server.client().predict([ROW, [0, 0, 0, 0]])
    assert reply.status == 200
    assert reply.json["outputs"] == [trainer.expected(published.sha256), trainer.expected(published.sha256, [0] * 4)]
    provenance = {
        "name": "affine",
        "version": "v1",
        "generation": 1,
        "sha256": published.sha256,
        "env_digest": "sha256:0123",
        "label": "stable",
    }
    assert reply.json["model"] == provenance
    assert {key: value for key, value in reply.headers.items() if key.startswith("x-")} == {
        "x-model-name": "affine",
        "x-model-version": "v1",
        "x-model-generation": "1",
        "x-model-sha256": published.sha256,
        "x-env-digest": "sha256:0123",
        "x-model-label": "stable",
    }
    described = server.get("/model").json
    assert provenance.items() <= described.items()
    assert described["expected_shape"] == [None, 4]


def test_before_the_first_model(start_server):
    server = start_server()
    assert server.get("/livez").status == server.get("/healthz").status == 200
    for reply in (server.get("/readyz"), server.get("/model"), server.client().predict([ROW])):
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json["error"] == "no model is live yet"
        assert reply.json["reason"]


BODIES = [
    ("not JSON", b"{", 400),
    ("empty", b"", 400),
    ("NaN", b'{"inputs": [[NaN, 0, 0, 0]]}', 400),
    ("Infinity", b'{"inputs": [[-Infinity, 0, 0, 0]]}', 400),
    ("deep", b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    ("as deep as is read", b'{"inputs": ' + b"[" * 63 + b"1" + b"]" * 63 + b"}", 422),
    ("one deeper", b'{"inputs": ' + b"[" * 64 + b"1" + b"]" * 64 + b"}", 400),
    ("not UTF-8", b'{"inputs": "\xff"}', 400),
    ("a number of 10,000 digits", b'{"inputs": [[' + b"9" * 10_000 + b", 0, 0, 0]]}", (400, 422)),
    ("a number that overflows", b'{"inputs": [[1e999, 0, 0, 0]]}', (400, 422)),
    ("a number beyond float32", b'{"inputs": [[1e300, 0, 0, 0]]}', 422),
    ("a list", b"[[1, 2, 3, 4]]", 422),
    ("no inputs", b"{}", 422),
    ("an unknown key", b'{"inputs": [[1, 2, 3, 4]], "input": 1}', 422),
    ("too few columns", b'{"inputs": [[1, 2, 3]]}', 422),
    ("one row without its list", b'{"inputs": [1, 2, 3, 4]}', 422),
    ("ragged", b'{"inputs": [[1, 2, 3, 4], [1]]}', 422),
    ("texts", b'{"inputs": [["a", "b", "c", "d"]]}', 422),
    ("null", b'{"inputs": null}', 422),
    ("null inside", b'{"inputs": [[null, 1, 2, 3]]}', 422),
    ("an object", b'{"inputs": {"a": 1}}', 422),
    ("a text", b'{"inputs": "1234"}', 422),
]


def test_bad_bodies_are_the_clients_fault(served):
    server, trainer, published = served
    client = server.client()
    for what, body, status in BODIES:
        reply = client.request("POST", "/predict", body)
        assert reply.status in (status if isinstance(status, tuple) else (status,)), (what, reply)
        assert reply.json["error"], what
        if reply.status == 422:
            assert reply.json["expected_shape"] == [None, 4], what
            assert reply.sha256 == published.sha256, what
    assert client.predict([ROW]).json["outputs"] == [trainer.expected(published.sha256)]
    assert server.events("request_failed") == []


def test_outputs_that_json_cannot_hold_are_said_to_be_so(served):
    server, _, published = served
    reply = server.client().predict([[3e38, 3e38, -3e38, 3e38]])
    assert reply.status == 422
    assert reply.json["error"].startswith("the outputs for these inputs: ")
    assert reply.sha256 == published.sha256


def test_a_body_over_the_limit_is_413(start_server, trainer):
    trainer.publish(1)
    server = start_server(max_body_bytes=1000)
    server.wait_live(1)
    body = json.dumps({"inputs": [ROW] * 400_000}).encode()
    assert len(body) > 9_000_000  # far more than the buffers of a socket hold
    for chunked in (False, True):
        reply = server.client().request("POST", "/predict", iter([body]) if chunked else body)
        assert reply.status == 413, chunked
        assert reply.json["error"]
    assert server.client().predict([ROW]).status == 200


def test_compressed_bodies_are_415(served):
    server, _, _ = served
    assert server.client().request("POST", "/predict", b"x", {"Content-Encoding": "br"}).status == 415


def test_unknown_paths_and_methods_answer_json(served):
    server, _, _ = served
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/predict", 405), ("POST", "/model", 405)):
        reply = server.client().request(method, path)
        assert (reply.status, "error" in reply.json) == (status, True)
