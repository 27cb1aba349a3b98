"""Chunk extensions are read however requests are cut into segments, whatever comes before and after on a connection."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import Worker
from predictors import Times
from wire import EXTENSIONS, chunked, post

BODY = b'{"inputs": [1, 2.5]}'
ROOMY = b'\r\n\r\n{"inputs":\r\n\r\n [1, 2.5]}\r\n\r\n'  # what looks like the end of a head
LARGE = b" " * 3000 + b"\r\n\r\n" + b" " * 200 + BODY


def extended(extension, chunked="chunked", body=BODY, trailer=b""):
    lines = f"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {chunked}\r\n\r\n"
    parts = [b"%x%s\r\n%s\r\n" % (len(part), extension.encode(), part) for part in (body[:7], body[7:])]
    return lines.encode() + b"".join(parts) + b"0%s\r\n%s\r\n" % (extension.encode(), trailer)


REQUESTS = [
    *(extended(extension) for extension in EXTENSIONS),
    *(extended(" ; a=b", spelt) for spelt in ("Chunked", "cHuNkEd", "CHUNKED")),
    extended(" ; a=b", body=ROOMY, trailer=b"X-Trailer: chunked\r\n"),
    *(post(body) for body in (BODY, ROOMY, LARGE)),
    post(BODY, "X-About: chunked", "Connection: keep-alive"),
    post(BODY, "Connection: Upgrade", "Upgrade: h2c"),
    post(BODY, "Expect: 100-continue"),
    extended("\t; a") + b"\r\n",
    chunked(LARGE),
]


def ask(directory, pieces):
    """Feed one connection, and return what it has written."""

    async def feed():
        worker = Worker(directory, "", lambda generation: Times())
        for piece in pieces:
            worker.connection(0).data_received(piece)
            await worker.settle()
        return worker.connections[0].transport.written

    return asyncio.run(feed())


def outputs_of(written):
    found = [part for part in written.split(b"HTTP/1.1 ") if part and not part.startswith(b"100")]
    return [json.loads(part.partition(b"\r\n\r\n")[2]).get("outputs") for part in found]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 64, 1000])
def test_in_segments_of_every_size(tmp_path, size):
    whole = b"".join(REQUESTS)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert outputs_of(ask(tmp_path / "worker", pieces)) == [[2, 5.0]] * len(REQUESTS)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_cut_anywhere(tmp_path_factory, data):
    several = data.draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4))
    whole = b"".join(several)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)]) if start < end]
    directory = tmp_path_factory.mktemp("worker") / "one"
    assert outputs_of(ask(directory, pieces)) == [[2, 5.0]] * len(several)
