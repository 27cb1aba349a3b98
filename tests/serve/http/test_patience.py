"""Peers that take their time: whoever is slow loses the connection, and nobody else notices."""

from __future__ import annotations

import json
import time

import pytest
from wire import BODY, Wire, post, statuses

pytestmark = pytest.mark.needs_torch


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /pre", post()[:-1], b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"],
    ids=["nothing", "a line", "a body", "a chunk"],
)
def test_a_peer_that_falls_silent_loses_the_connection(asgi, begun):
    with Wire(asgi.port) as wire:
        wire.send(begun)
        assert statuses(wire.drain()) in ([], [408])


def test_a_peer_that_sends_its_head_byte_by_byte_loses_the_connection(asgi):
    with Wire(asgi.port) as wire:
        wire.send(b"POST /predict HTTP/1.1\r\n")
        assert 10 < wire.send_until_closed([b"X: y\r\n"] * 600, pause_s=0.1) < 600


def test_an_idle_connection_that_was_answered_is_kept(asgi):
    with Wire(asgi.port) as wire:
        assert wire.ask(post()).status == 200
        time.sleep(4)
        assert wire.ask(post()).status == 200


def test_a_peer_that_does_not_read_costs_the_others_nothing(asgi):
    rows = json.dumps({"inputs": [[1, 2, 3, 4]] * 5000}).encode()
    with Wire(asgi.port) as wire:
        wire.socket.settimeout(1)
        sent = wire.send_until_closed([post(rows)] * 5000)  # a gigabyte of answers, which nobody reads
        with Wire(asgi.port) as other:
            assert other.ask(post(BODY)).status == 200
    assert sent < 5000
