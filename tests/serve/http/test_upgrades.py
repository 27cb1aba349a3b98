"""An offered upgrade is ignored: body, framing and what follows on the connection are those of any request."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from wire import BODY, Wire, chunked, post

pytestmark = pytest.mark.needs_torch

OFFERS = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
    "websocket": (
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ),
    "foo": ("upgrade: foo/2, bar", "connection: upgrade"),
    "twice": ("Upgrade: a", "Connection: upgrade", "Upgrade: b", "Connection: Upgrade"),
    "none": (),
}
# A body that would be a request, if the parser took it for one.
SMUGGLED = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


@st.composite
def conversations(draw):
    """Requests on one connection, then one that closes it, and where the bytes are cut."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        method = draw(st.sampled_from(["POST", "POST", "PUT", "GET", "DELETE", "OPTIONS", "PATCH"]))
        path = draw(st.sampled_from(["/predict", "/predictions/affine", "/v1/models/affine:predict", "/readyz"]))
        body = draw(st.sampled_from([BODY, SMUGGLED, b""]))
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *OFFERS[draw(st.sampled_from(sorted(OFFERS)))]]
        if draw(st.booleans()):
            lines.append("Transfer-Encoding: chunked")
            cut = draw(st.integers(0, len(body)))
            pieces = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part]
            body = b"".join(pieces) + b"0\r\n\r\n"
        else:
            lines.append(f"Content-Length: {len(body)}")
        parts.append(("\r\n".join([*lines, "", ""]).encode() + body, method))
    offer = OFFERS[draw(st.sampled_from(sorted(OFFERS)))]
    parts.append(("\r\n".join(["GET /livez HTTP/1.1", "Host: x", *offer, "Connection: close", "", ""]).encode(), "GET"))
    whole = b"".join(part for part, _ in parts)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)])]
    return pieces, [method for _, method in parts]


def talk(server, pieces, methods):
    """What is answered to each request, and whether anything more came."""
    with Wire(server.port) as wire:
        wire.send(*pieces, pause_s=0.001)
        answers = [wire.read(method) for method in methods]
        assert wire.drain() == b""
    return [(answer.status, _said(answer.body)) for answer in answers]


def _said(body):
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return "an error" if "error" in found else found


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversations())
@example(([post(SMUGGLED, *OFFERS["foo"]) + post(BODY, *OFFERS["h2c"], "Connection: close")], ["POST", "POST"]))
def test_both_workers_answer_as_if_nothing_had_been_offered(servers, conversation):
    pieces, methods = conversation
    found = talk(servers("asgi"), pieces, methods)
    assert found == talk(servers("gthread"), pieces, methods)


@pytest.mark.parametrize(
    "write", [post, lambda body, *headers: chunked(body, headers=headers)], ids=["length", "chunks"]
)
@pytest.mark.parametrize("offer", ["websocket", "foo"])
def test_an_offer_may_be_cut_anywhere(asgi, outputs, write, offer):
    request = write(BODY, *OFFERS[offer])
    with Wire(asgi.port) as wire:
        for cut in range(1, len(request)):
            assert wire.ask(request[:cut], request[cut:]).outputs == outputs
        wire.send(request * 5)
        assert [wire.read().outputs for _ in range(5)] == [outputs] * 5


def test_no_tunnel_is_opened(server):
    with Wire(server.port) as wire:
        wire.send(b"CONNECT example.org:80 HTTP/1.1\r\nHost: example.org:80\r\n\r\n" + SMUGGLED)
        answers = wire.drain()
    assert b" 200 " not in answers
    assert answers.count(b"HTTP/1.1 ") == 1
