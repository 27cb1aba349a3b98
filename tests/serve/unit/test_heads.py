"""Heads that are remembered, and who asks alone."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn")

from serve.gateway.routes import PREDICTION_ROUTES
from serve.http.messages import Response, Table
from serve.workers import request_head
from serve.workers.http_protocol import SoleConnection, write_head
from serve.workers.request_head import Bounds, HeaderCache

FIELDS = [(b"host", b"x"), (b"content-length", b"10")]


def make():
    return HeaderCache(Table(PREDICTION_ROUTES), 1000, Bounds(4094, 100, 8190, 30))


def test_a_head_that_comes_again_is_not_read_again():
    known = make()
    first = known.read(b"/predict/a", list(FIELDS))
    assert known.read(b"/predict/a", list(FIELDS)) is first
    assert (first.path, first.is_plain, first.headers["content-length"]) == ("/predict/a", True, "10")
    assert first.found[1] == {"name": "a"}
    assert known.read(b"/predict/b", list(FIELDS)).found[1] == {"name": "b"}
    assert known.read(b"/predict/a", [(b"host", b"y")]).headers == {"host": "y"}


@pytest.mark.parametrize(
    ("url", "field"),
    [
        (b"/predict?x=1", (b"host", b"x")),
        (b"/%70redict", (b"host", b"x")),
        (b"/readyz", (b"host", b"x")),
        (b"/predict", (b"transfer-encoding", b"chunked")),
        (b"/predict", (b"expect", b"100-continue")),
        (b"/predict", (b"content-length", b"1001")),
    ],
)
def test_what_is_unusual_is_left_to_uvicorn(url, field):
    assert not make().read(url, [field]).is_plain


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(request_head, "_MOST_REMEMBERED", 10)
    known = make()
    for number in range(100):
        assert known.read(b"/predict", [(b"x-id", b"%d" % number)]).headers == {"x-id": str(number)}
        assert len(known._remembered) <= 10
    long = [(b"x-id", b"x" * 3000)]
    assert known.read(b"/predict", long) is not known.read(b"/predict", long)


def test_the_head_of_an_answer():
    answer = Response(200, {"A": "b"}, b"")
    assert write_head(answer, [(b"date", b"now")], 3, True) == (
        b"HTTP/1.1 200 OK\r\ndate: now\r\nA: b\r\ncontent-length: 3\r\n\r\n"
    )
    assert write_head(answer, [], 3, False).endswith(b"content-length: 3\r\nconnection: close\r\n\r\n")
    for value in ("b\r\nX: y", "b\nX: y", "b\ry"):
        with pytest.raises(ValueError, match="one line"):
            write_head(Response(200, {"A": value}, b""), [], 3, True)


def test_only_a_connection_that_asks_on_and_on_is_alone():
    streak = SoleConnection()
    assert [streak.goes_on("a") for _ in range(9)] == [False] * 8 + [True]
    assert not streak.goes_on("b")
    assert not streak.goes_on("a")
