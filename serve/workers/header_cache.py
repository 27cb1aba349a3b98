"""Heads of requests that were understood before, and heads of answers that were written before.

A client sends the same head over and over, and the answers of one generation differ in nothing but their bodies, so
both are remembered by what they are made of. What is remembered is bounded, and never changed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serve.gateway.request_form import AnswerFrame
from serve.http.messages import Response, headers_of
from serve.http.route import Found, Table
from serve.workers.request_head import Bounds, Field, find_fault

_MOST_REMEMBERED, _LONGEST_REMEMBERED_BYTES = 1000, 2048


class Head(NamedTuple):
    """The head of a POST request.

    Args:
        found: the route of a prediction and the parts of the path that it names; `None` for everything else.
        is_plain: whether a stated length is all that it asks for.
    """

    found: Found | None
    path: str = ""
    headers: Mapping[str, str] = {}
    is_plain: bool = False


_OTHER = Head(None)


class HeaderCache:
    """Understands heads."""

    def __init__(self, table: Table, limit_bytes: int, bounds: Bounds) -> None:
        self._table, self._limit_bytes, self._bounds = table, limit_bytes, bounds
        self._remembered: dict[tuple[object, ...], Head] = {}

    def read(self, url: bytes, fields: Sequence[Field]) -> Head:
        """Understand the head of a POST request."""
        key = (url, *fields)
        head = self._remembered.get(key)
        if head is None:
            head = self._understand(url, fields)
            if len(url) + sum(len(name) + len(value) for name, value in fields) <= _LONGEST_REMEMBERED_BYTES:
                if len(self._remembered) >= _MOST_REMEMBERED:
                    self._remembered.clear()  # rather than keep what one client has filled it with
                self._remembered[key] = head
        return head

    def _understand(self, url: bytes, fields: Sequence[Field]) -> Head:
        # Escapes and queries are left to uvicorn's way.
        if not url.isascii() or any(mark in url for mark in (b"%", b"?", b"#")):
            return _OTHER
        path = url.decode("ascii")
        found = self._table.find("POST", path)
        if found is None:
            return _OTHER
        headers = headers_of(fields)
        is_plain = (
            "transfer-encoding" not in headers
            and "expect" not in headers
            and int(headers.get("content-length", 0)) <= self._limit_bytes
            and find_fault(self._bounds, "1.1", url, fields) is None
        )
        return Head(found, path, headers, is_plain)


def write(answer: Response, defaults: Sequence[Field], size_bytes: int, keep_alive: bool) -> bytes:
    """Write the head of an answer; raises `ValueError` where a header would be several."""
    begin = _write(answer.status, tuple(answer.headers.items()), tuple(defaults))
    return begin + (b"content-length: %d\r\n\r\n" if keep_alive else _CLOSING) % size_bytes


def write_formed(
    frame: AnswerFrame, defaults: Sequence[Field], trace: bytes, size_bytes: int, keep_alive: bool
) -> bytes:
    """Write the head of an answer with a known frame; the same as `write` does."""
    if frame.written is None or frame.written[0] is not defaults:  # uvicorn makes others each second, for the date
        frame.written = defaults, _write(200, tuple(frame.headers.items()), tuple(defaults))
    begin: bytes = frame.written[1]
    return b"".join(
        (
            begin,
            b"traceparent: %b\r\n" % trace if trace else b"",
            (b"content-length: %d\r\n\r\n" if keep_alive else _CLOSING) % size_bytes,
        )
    )


_CLOSING = b"content-length: %d\r\nconnection: close\r\n\r\n"


@functools.lru_cache(256)
def _write(status: int, headers: tuple[tuple[str, str], ...], defaults: tuple[Field, ...]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
    if fields.count("\n") != len(headers) or fields.count("\r") != len(headers):
        raise ValueError("a header: expected one line, found several")
    own = [b"%s: %s\r\n" % header for header in defaults]
    line: bytes = STATUS_LINE[status]
    return b"".join((line, *own, fields.encode("latin-1")))
