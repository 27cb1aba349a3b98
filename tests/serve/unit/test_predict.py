"""The handlers are functions of bytes, so they are tested without gunicorn."""

from __future__ import annotations

import json
import threading

import pytest
from predictors import Times, go_live, make_server

from serve.gateway.health import livez, model, readyz
from serve.http.messages import Request
from serve.inference.prediction import complete
from serve.model.slot import GIVEN_UP
from serve.protocols.native import predict
from serve.swap.reloader import ReloaderStatus

LOOK = Request("GET", "/", {}, b"", {})


@pytest.fixture
def server(tmp_path):
    server = make_server(tmp_path)
    go_live(server.find(None).stable, generation=4)
    return server


def answer(server, body, place=None, **headers):
    request = Request("POST", "/predict", headers, body, place or {})
    status, sent, content = complete(predict(server, request))
    return status, dict(sent), json.loads(content)


def test_outputs_and_provenance(server):
    status, headers, content = answer(server, b'{"inputs": [1, 2.5]}')
    assert (status, content["outputs"]) == (200, [2, 5.0])
    assert headers["X-Model-Generation"] == "4"
    assert headers["Content-Type"] == "application/json"
    facts = {"name": "M", "version": "v1", "generation": 4, "sha256": "a" * 64, "env_digest": "d", "label": "stable"}
    assert content["model"] == facts


def test_a_request_keeps_its_generation_to_its_end(server):
    found = predict(server, Request("POST", "/predict", {}, b'{"inputs": [1]}', {}))
    instance = server.find(None).stable
    old = go_live(instance, Times(3), "v2", 5)
    assert instance.slot.take_drained() == []
    done = complete(found)
    assert (json.loads(done.body)["outputs"], done.headers["X-Model-Version"]) == ([2], "v1")
    assert instance.slot.take_drained() == [old]


@pytest.mark.parametrize("body", [b'{"inputs": [1]}', b"{", b'{"inputs": 1}', b'{"inputs": [NaN]}', b"\xff"])
def test_the_lease_is_given_back_whatever_comes(server, body):
    answer(server, body)
    instance = server.find(None).stable
    assert instance.slot.take_drained() == []
    old = go_live(instance)
    assert instance.slot.take_drained() == [old]


def test_the_lease_is_given_back_when_the_module_fails(server):
    class Broken(Times):
        def run(self, taken):
            raise RuntimeError("broken")

    instance = server.find(None).stable
    go_live(instance, Broken())
    instance.slot.take_drained()
    with pytest.raises(RuntimeError, match="broken"):
        answer(server, b'{"inputs": [1]}')
    broken = go_live(instance)
    assert instance.slot.take_drained() == [broken]


def test_inputs_that_do_not_fit(server):
    status, headers, content = answer(server, b'{"inputs": 1}')
    assert (status, content) == (422, {"error": "the inputs: expected a list", "expected_shape": [None]})
    assert headers["X-Model-SHA256"] == "a" * 64


def test_outputs_that_json_cannot_hold(server):
    go_live(server.find(None).stable, Times(float("inf")))
    status, headers, content = answer(server, b'{"inputs": [1]}')
    assert status == 422
    assert content["error"].startswith("the outputs for these inputs: ")
    assert headers["X-Model-SHA256"] == "a" * 64


def test_a_shadow_cannot_fail_a_request_that_is_answered(tmp_path):
    class OnlyArrays(Times):
        def postprocess(self, given):
            raise RuntimeError("no JSON can hold it")

    toml = '[models.M]\nmodel = "m:M"\ncheckpoints = "ck"\n[models.M.shadow]\ncheckpoints = "dark"\n'
    server = make_server(tmp_path, toml)
    go_live(server.find("M").stable, OnlyArrays())
    request = Request("POST", "/predict", {"accept": "application/x-npy"}, b'{"inputs": [1]}', {"name": "M"})
    assert complete(predict(server, request)).status == 200
    assert server.shadow.counts == {}


def test_no_model_yet(tmp_path):
    status, headers, content = answer(make_server(tmp_path), b"{}")
    assert (status, content["error"], bool(content["reason"])) == (503, "no model is live yet", True)
    assert headers["Retry-After"] == "1"


def test_a_model_that_is_not_served(server):
    status, _, content = answer(server, b'{"inputs": [1]}', {"name": "N"})
    assert (status, content) == (404, {"error": "model: expected M, found N"})
    assert answer(server, b'{"inputs": [1]}', {"name": "M", "version": "v1"})[0] == 200
    assert answer(server, b'{"inputs": [1]}', {"name": "M", "version": "v2"})[0] == 404


def test_status_handlers(server, tmp_path):
    assert readyz(server, LOOK).status == 200
    (tmp_path / "other").mkdir()
    waiting = make_server(tmp_path / "other")
    assert {readyz(waiting, LOOK).status, model(waiting, LOOK).status} == {503}
    assert livez(server, LOOK).status == 503  # nothing was started
    described = json.loads(model(server, LOOK).body)
    assert (described["format"], described["expected_shape"], described["can_batch"]) == ("torch", [None], True)
    assert described["inputs"] == [{"name": "inputs", "dtype": "float32", "shape": [None]}]


def test_livez_says_whether_a_restart_could_help(server):
    for thread in threading.enumerate():
        if thread.name == GIVEN_UP:
            thread.join()  # what another test gave up
    (instance,) = server.instances
    instance._thread = threading.current_thread()  # a reloader that is alive
    assert json.loads(livez(server, LOOK).body) == {"live": True}
    instance.slot.vacate()
    instance.reloader.status = ReloaderStatus("m.pth: refused: busy")
    waiting = livez(server, LOOK)
    assert (waiting.status, json.loads(waiting.body)["reason"]) == (200, "m.pth: refused: busy")
    ending = threading.Event()
    hanging = threading.Thread(target=ending.wait, name=GIVEN_UP)
    hanging.start()
    try:
        assert livez(server, LOOK).status == 503, "only a restart frees what hangs"
    finally:
        ending.set()
        hanging.join()
    assert livez(server, LOOK).status == 200
