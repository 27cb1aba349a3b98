"""What HTTP asks of a server, byte by byte, read by a strict client."""

from __future__ import annotations

import contextlib
import json

import pytest
from serving import Server
from wire import BODY, EXTENSIONS, Wire, chunked, post, statuses

pytestmark = pytest.mark.needs_torch


def test_a_connection_answers_many_requests(server, outputs):
    with Wire(server.port) as wire:
        assert [wire.ask(post()).outputs for _ in range(20)] == [outputs] * 20  # the last ones run at once


def test_a_request_may_come_in_any_pieces(server, outputs):
    request = post()
    with Wire(server.port) as wire:
        for cut in (1, 4, 17, len(request) - len(BODY) - 1, len(request) - len(BODY), len(request) - 1):
            assert wire.ask(request[:cut], request[cut:], pause_s=0.02).outputs == outputs


def test_pipelined_requests_are_answered_in_order(asgi, outputs):
    with Wire(asgi.port) as wire:
        wire.send(post() + post(b"{") + b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" + post() + chunked(BODY))
        assert [wire.read().status for _ in range(2)] == [200, 400]
        assert wire.read("GET").body == b'{"ready": true}'
        assert [wire.read().outputs for _ in range(2)] == [outputs] * 2


def test_chunked_bodies(server, outputs):
    with Wire(server.port) as wire:
        assert wire.ask(chunked(BODY)).outputs == outputs
        assert wire.ask(chunked(*(bytes([byte]) for byte in BODY))).outputs == outputs
        assert wire.ask(post()).outputs == outputs


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_chunk_extensions_are_read_and_ignored(server, outputs, extension):
    cut = len(BODY) // 2
    lines = "POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [b"%x%s\r\n%s\r\n" % (len(part), extension.encode(), part) for part in (BODY[:cut], BODY[cut:])]
    whole = lines.encode() + b"".join(parts) + b"0%s\r\n\r\n" % extension.encode()
    trailed = whole[:-2] + b"X-Trailer: y\r\n\r\n"
    with Wire(server.port) as wire:
        assert wire.ask(whole).outputs == outputs
        assert wire.ask(trailed).outputs == outputs
        wire.send(post() + whole + trailed + post())
        assert [wire.read().outputs for _ in range(4)] == [outputs] * 4
        for at in range(1, len(whole), 3):
            assert wire.ask(whole[:at], whole[at:]).outputs == outputs
        assert wire.ask(*(whole[at : at + 1] for at in range(len(whole)))).outputs == outputs


def test_a_client_that_asks_first_is_told_to_continue(server, outputs):
    head, body = post(BODY, "Expect: 100-continue").split(b"\r\n\r\n")
    with Wire(server.port) as wire:
        wire.send(head + b"\r\n\r\n")
        assert wire.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert wire.ask(body).outputs == outputs
        assert wire.ask(post()).outputs == outputs


def test_a_client_that_asks_first_is_not_told_to_send_too_much(server):
    with Wire(server.port) as wire:
        wire.send(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n")
        answer = wire.read()
        assert (answer.status, answer.headers["connection"].lower()) == (413, "close")


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(server):
    with Wire(server.port) as wire:
        wire.send(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 22)
        assert wire.read().status == 413


def test_what_is_refused_is_not_read_away_for_ever(server):
    with Wire(server.port) as wire:
        wire.send(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        assert wire.send_until_closed([piece] * 200) < 200
        with contextlib.suppress(ConnectionError):
            assert wire.read().status == 413


def test_an_answered_upload_that_never_ends_does_not_hold_a_worker_up(tmp_path, trained):
    server = Server(tmp_path, trained[0].directory, {"worker": "asgi", "workers": 1, "max_body_bytes": 1000})
    server.wait_live(1, workers=1)
    with Wire(server.port) as wire:
        wire.send(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n")
        wire.send(b" " * 0x800 + b"\r\n")
        assert wire.read().status == 413
        server.stop()
    assert server.process.returncode == 0


def test_an_old_client_may_keep_its_connection(server, outputs):
    with Wire(server.port) as wire:
        for _ in range(3):
            answer = wire.ask(post(BODY, "Connection: keep-alive", version="1.0"))
            assert (answer.outputs, answer.headers["connection"]) == (outputs, "keep-alive")


WRONG = {
    "no Host": (b"GET /livez HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    "two Hosts of a prediction": (post(BODY, "Host: y"), 400),
    "an expectation": (post(BODY, "Expect: foo"), 417),
    "a long header": (post(BODY, "X-Long: " + "x" * 70_000), 431),
    "a header that is just too long": (post(BODY, "X-Long: " + "x" * 8_190), 431),
    "many headers": (post(BODY, *(f"X-{number}: 1" for number in range(200))), 431),
    "a long path": (post(path="/" + "x" * 6_000), 414),
    "no request": (b"nonsense\r\n\r\n", 400),
    "a wrong length": (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
    "a header without a name": (b"GET /livez HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", 400),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("cut", [0, 30])
def test_what_is_wrong_with_a_head_is_said_in_json(server, what, cut):
    request, status = WRONG[what]
    with Wire(server.port) as wire:
        wire.send(*[piece for piece in (request[:cut], request[cut:]) if piece], pause_s=0.01)
        answer = wire.read()
    assert (answer.status, answer.headers["connection"].lower()) == (status, "close")
    assert json.loads(answer.body)["error"]
    assert answer.headers["content-type"] == "application/json"


def test_a_head_of_many_bytes_that_keeps_to_the_limits(server, outputs):
    request = post(BODY, *(f"X-{number}: " + "x" * 5_000 for number in range(20)))
    with Wire(server.port) as wire:
        assert wire.ask(request).outputs == outputs
        assert wire.ask(request[:50_000], request[50_000:], pause_s=0.01).outputs == outputs


@pytest.mark.parametrize("path", ["/predict", "/v2/models/affine/infer"])
def test_a_method_that_is_not_allowed_is_told_which_are(server, path):
    with Wire(server.port) as wire:
        wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = wire.read("GET")
    assert answer.status == 405
    assert "POST" in answer.headers["allow"].split(", ")


def test_head_has_the_headers_and_no_body(server, outputs):
    with Wire(server.port) as wire:
        wire.send(b"HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = wire.read("HEAD")
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "15")
        assert wire.ask(post()).outputs == outputs


def test_an_old_client_gets_its_answer_and_the_end(server):
    with Wire(server.port) as wire:
        wire.send(post(version="1.0"))
        assert statuses(wire.drain()) == [200]


def test_a_client_that_wants_the_connection_closed(server):
    with Wire(server.port) as wire:
        wire.send(post(BODY, "Connection: close"))
        answers = wire.drain()
        assert statuses(answers) == [200]
        assert b"connection: close\r\n" in answers.lower()


def test_a_client_that_has_closed_its_side_still_gets_its_answer(server):
    with Wire(server.port) as wire:
        wire.send(post())
        assert statuses(wire.finish()) == [200]


def test_a_body_that_is_cut_off_is_not_answered_as_if_it_were_whole(server):
    with Wire(server.port) as wire:
        wire.send(post()[:-5])
        assert 200 not in statuses(wire.finish())


@pytest.mark.parametrize("write", [post, chunked])
def test_a_body_over_the_limit_is_413(server, write):
    with Wire(server.port) as wire:
        answer = wire.ask(write(b" " * 100_001))
        assert answer.status == 413
        if answer.headers.get("connection") != "close":
            assert wire.ask(post()).status == 200
    with Wire(server.port) as wire:
        assert wire.ask(post()).status == 200


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (post(path="/" + "x" * 6_000), 414, "the path: expected at most 4094 bytes, found 6001"),
        (post(BODY, *(f"X-{number}: 1" for number in range(200))), 431, "the head: expected at most 100 fields"),
    ],
    ids=["path", "fields"],
)
def test_the_event_loop_says_what_is_wrong_with_a_head(asgi, request_, status, said):
    with Wire(asgi.port) as wire:
        answer = wire.ask(request_)
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert json.loads(answer.body)["error"].startswith(said)


def test_a_head_that_is_too_large_is_refused(server):
    for request in (
        post(BODY, *(f"X-{number}: 1" for number in range(200))),
        post(BODY, "X-Long: " + "x" * 300_000),
        post(path="/" + "x" * 20_000),
    ):
        with Wire(server.port) as wire:
            try:
                wire.send(request)
                answers = wire.finish()
            except ConnectionError:  # it closed while we were still sending
                answers = b""
            assert set(statuses(answers)) <= {400, 414, 431}
    with Wire(server.port) as wire:
        assert wire.ask(post()).status == 200


def test_a_head_that_never_ends_is_not_gathered(asgi):
    with Wire(asgi.port) as wire:
        assert wire.send_until_closed([b"POST /predict HTTP/1.1\r\nX: ", *[b"x" * 100_000] * 1000]) < 1001
        with Wire(asgi.port) as other:
            assert other.ask(post()).status == 200


SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: smuggled\r\n\r\n"
HOSTILE = {
    "length and chunks": post(BODY, "Transfer-Encoding: chunked"),
    "chunks and length": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
    b"0\r\n\r\n" + SMUGGLED,
    "two lengths": post(BODY, "Content-Length: 3"),
    "a length twice in one": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc" + SMUGGLED,
    "a length with a sign": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc" + SMUGGLED,
    "a negative length": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\nabc" + SMUGGLED,
    "a length of letters": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0x3\r\n\r\nabc" + SMUGGLED,
    "an endless length": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: "
    + b"9" * 40
    + b"\r\n\r\nabc"
    + SMUGGLED,
    "an unknown coding": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "chunked not last": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "a space before the colon": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc" + SMUGGLED,
    "a bare line feed": b"POST /predict HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + SMUGGLED,
    "a bare carriage return": b"POST /predict HTTP/1.1\r\nHost: x\rContent-Length: 3\r\n\r\nabc" + SMUGGLED,
    "a zero byte in a value": b"POST /predict HTTP/1.1\r\nHost: x\x00y\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "a bare line feed in an extension": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1; a\nx\r\n0\r\n\r\n" + SMUGGLED,
    "a carriage return in an extension": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1; a\rb\r\nx\r\n0\r\n\r\n" + SMUGGLED,
    "an extension without an end": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1; "
    + b"a" * 10_000
    + b"\r\nx\r\n0\r\n\r\n"
    + SMUGGLED,
    "a blank after a chunk size": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1 \r\nx\r\n0\r\n\r\n" + SMUGGLED,
    "a blank before a chunk size": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b" 1\r\nx\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk size that wraps": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"10000000000000001\r\nx\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk size with a sign": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"-1\r\nx\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk that is longer than it says": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\r\nxyz\r\n0\r\n\r\n" + SMUGGLED,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + SMUGGLED,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_two_servers_could_read_differently_is_refused(asgi, what):
    with Wire(asgi.port) as wire:
        wire.send(HOSTILE[what])
        answers = statuses(wire.finish())
    assert 200 not in answers
    assert len(answers) <= 1
