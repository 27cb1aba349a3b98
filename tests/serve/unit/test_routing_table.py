"""The event-loop worker finds the same handlers as Flask does."""

from __future__ import annotations

import pytest

from serve.gateway.routes import PREDICTION_ROUTES
from serve.http.messages import Table, headers_of

CASES = [
    ("POST", "/predict", {}),
    ("POST", "/predict/m", {"name": "m"}),
    ("POST", "/predict/m/v1", {"name": "m", "version": "v1"}),
    ("POST", "/v2/models/m/infer", {"name": "m"}),
    ("POST", "/v2/models/m/versions/3/infer", {"name": "m", "version": "3"}),
    ("POST", "/v1/models/m:predict", {"name": "m"}),
    ("POST", "/v1/models/m/labels/canary:predict", {"name": "m", "label": "canary"}),
]


@pytest.mark.parametrize(("method", "path", "place"), CASES)
def test_the_parts_of_a_path_are_found(method, path, place):
    table = Table(PREDICTION_ROUTES)
    for _ in range(2):  # the second time it is remembered
        route, found = table.find(method, path)
        assert found == place
    assert route in PREDICTION_ROUTES


@pytest.mark.parametrize(
    "path", ["/", "/predict/", "/predict//v1", "/predict/a/b/c", "/v2/models//infer", "/v1/models/m", "/xpredict", ""]
)
def test_what_is_no_prediction_is_left_to_flask(path):
    assert Table(PREDICTION_ROUTES).find("POST", path) is None
    assert Table(PREDICTION_ROUTES).find("GET", "/predict") is None


def test_many_paths_do_not_fill_the_memory():
    table = Table(PREDICTION_ROUTES)
    for number in range(3000):
        assert table.find("POST", f"/predict/{number}") is not None
    assert len(table._remembered) <= 1000


def test_headers_that_come_twice_are_joined_as_by_a_wsgi_server():
    assert headers_of([(b"a", b"1"), (b"b", b"\xe4"), (b"a", b"2")]) == {"a": "1,2", "b": "ä"}
