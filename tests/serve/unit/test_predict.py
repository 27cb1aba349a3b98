"""The handlers are functions of bytes, so they are tested without a server."""

from __future__ import annotations

import json

import pytest

from serve.app.predict import predict
from serve.app.status import livez, model, readyz
from serve.errors import InputError
from serve.provenance import Provenance
from serve.slot import Generation, Slot


class Doubling:
    """The smallest predictor."""

    expected_shape = (None,)

    def predict(self, inputs):
        if not isinstance(inputs, list):
            raise InputError("the inputs: expected a list", self.expected_shape)
        return [2 * value for value in inputs]


@pytest.fixture
def slot():
    slot = Slot()
    slot.swap(Generation(Doubling(), Provenance("m", "v1", 4, "a" * 64, "d"), {"format": "torch"}))
    return slot


def answer(slot, body, **headers):
    status, sent, content = predict(slot, "waiting", headers, body)
    return status, dict(sent), json.loads(content)


def test_outputs_and_provenance(slot):
    status, headers, content = answer(slot, b'{"inputs": [1, 2.5]}')
    assert (status, content["outputs"]) == (200, [2, 5.0])
    assert headers["X-Model-Generation"] == "4"
    assert headers["Content-Type"] == "application/json"
    assert content["model"] == {"name": "m", "version": "v1", "generation": 4, "sha256": "a" * 64, "env_digest": "d"}


def test_the_lease_is_given_back_whatever_comes(slot):
    for body in (b'{"inputs": [1]}', b"{", b'{"inputs": 1}'):
        answer(slot, body)
    old = slot.swap(Generation(Doubling(), Provenance("m", "v2", 5, "b" * 64, "d"), {}))
    assert slot.take_drained() == [old]


def test_inputs_that_do_not_fit(slot):
    status, headers, content = answer(slot, b'{"inputs": 1}')
    assert (status, content) == (422, {"error": "the inputs: expected a list", "expected_shape": [None]})
    assert headers["X-Model-SHA256"] == "a" * 64


def test_no_model_yet():
    status, headers, content = answer(Slot(), b"{}")
    assert (status, content) == (503, {"error": "no model is live yet", "reason": "waiting"})
    assert headers["Retry-After"] == "1"


def test_status_handlers(slot):
    assert livez(True, "").status == readyz(slot, "").status == 200
    assert livez(False, "gone").status == readyz(Slot(), "gone").status == model(Slot(), "gone").status == 503
    described = json.loads(model(slot, "m: it is being served").body)
    assert (described["format"], described["expected_shape"]) == ("torch", [None])
    assert described["newest"] == "m: it is being served"
