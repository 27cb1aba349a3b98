"""Requests with some of their bytes changed, on connections to both worker classes: an answer or the end of the
connection, never a failure of the server's own, and the next client is answered as ever."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import BODY, Wire, chunked, post, statuses

from tests.support.edits import edited, edits

pytestmark = pytest.mark.needs_torch

V2 = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [3, -2, 5, 7]}]}).encode()
BINARY = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}]}'
REQUESTS = [
    post(),
    post() + post(b"", path="/readyz"),
    chunked(
        BODY[:9], BODY[9:], headers=("Expect: 100-continue", "traceparent: 00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
    ),
    post(V2, "Content-Type: application/json", path="/v2/models/affine/infer"),
    post(BINARY + b"\0" * 16, f"Inference-Header-Content-Length: {len(BINARY)}", path="/v2/models/affine/infer"),
    b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
]


def assert_answered_or_closed(server, whole, steps, outputs):
    workers = server.workers()
    with Wire(server.port) as wire, contextlib.suppress(ConnectionError):
        wire.send(edited(whole, steps))
        found = statuses(wire.finish())
        assert all(status < 500 or status in (501, 505) for status in found), (found, server.text[-3000:])
    with Wire(server.port) as wire:
        assert wire.ask(post()).outputs == outputs
    assert server.workers() == workers
    assert "Traceback" not in server.text


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(REQUESTS), edits)
def test_a_damaged_request_is_answered_or_closed(server, outputs, whole, steps):
    assert_answered_or_closed(server, whole, steps, outputs)


@pytest.mark.nightly
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(REQUESTS), edits)
def test_a_damaged_request_is_answered_or_closed_many_times(server, outputs, whole, steps):
    assert_answered_or_closed(server, whole, steps, outputs)
