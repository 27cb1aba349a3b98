from __future__ import annotations

import io

import pytest

from serve.errors import RequestError
from serve.http.messages import read_away, read_body


@pytest.mark.parametrize("length", [0, 1, 99_999, 100_000])
def test_a_body_within_the_limit_is_read_whole(length):
    body = bytes(range(256)) * 400
    assert read_body(io.BytesIO(body[:length]), 100_000) == body[:length]


@pytest.mark.parametrize("length", [100_001, 5_000_000])
def test_a_longer_one_is_read_away(length):
    stream = io.BytesIO(b"x" * length)
    assert read_body(stream, 100_000) is None
    assert stream.tell() <= 100_000 + 64 * 1024
    read_away(stream)
    assert stream.read() == b""


def test_reading_away_has_an_end():
    class Endless(io.RawIOBase):
        def read(self, size=-1):
            return b"x" * size

    assert read_body(Endless(), 10) is None
    read_away(Endless())


def test_what_the_servers_parser_refuses_is_the_clients_fault():
    class Malformed(io.RawIOBase):
        def read(self, size=-1):
            raise OSError("a chunk of the size zz")

    with pytest.raises(RequestError, match="the body: expected it whole, found OSError"):
        read_body(Malformed(), 10)
