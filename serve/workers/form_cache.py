"""Requests whose bytes are known up to the numbers of a tensor: compared, and not parsed.

What a connection sent once is remembered as literals with holes between them: for the values of headers that differ
and that nothing reads, for the length of the body, and for the numbers. The literals are what the parser has accepted,
byte for byte; what can be in a hole is a subset of what the parser accepts there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from serve.gateway.request_form import VARYING, RequestForm

_TRACE, _LENGTH, _ANY = b"traceparent", b"content-length", b""
# Below what any server lets a field have that uses these headers: `remember` looks at nothing else.
_LONGEST_VALUE_BYTES = 256
_VISIBLE = bytes(range(0x20, 0x7F))
# Those of which `serve.observability.spans` returns the value as it is.
_TRACE_PARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_FIELD = re.compile(rb"\r\n([^:\r\n]+): ([^\r\n]+)(?=\r\n)")
_LENGTH_DIGITS = 9
_FIRST, _MOST_MISSES, _TRY_EVERY = 2, 8, 64


class Matched(NamedTuple):
    """A request of a known form."""

    numbers: bytes
    trace: bytes  # the value of its `traceparent`, or nothing


class RequestPattern:
    """The bytes of one form of request: literals, each with the kind of the hole behind it, and the `last` one before
    the numbers. The limit is of a body.
    """

    __slots__ = ("_after", "_body_bytes", "_last", "_limit_bytes", "_pieces", "form")

    def __init__(self, form: RequestForm, pieces: list[tuple[bytes, bytes]], last: bytes, limit_bytes: int) -> None:
        self.form, self._pieces, self._last, self._limit_bytes = form, tuple(pieces), last, limit_bytes
        layout = form.layout
        self._after, self._body_bytes = layout.after, len(layout.before) + len(layout.after)

    def match(self, data: bytes) -> Matched | None:
        """Find the numbers of a request; `None` for another one, or not the whole of one and nothing else."""
        at, length, trace = 0, -1, b""
        for literal, kind in self._pieces:
            if not data.startswith(literal, at):
                return None
            at += len(literal)
            end = data.find(b"\r", at, at + _LONGEST_VALUE_BYTES)
            value = data[at:end]
            if end <= at or value.translate(None, _VISIBLE):
                return None
            if kind == _LENGTH:
                if not value.isdigit() or len(value) > _LENGTH_DIGITS:
                    return None
                length = int(value)
                if length > self._limit_bytes:
                    return None
            elif kind == _TRACE:
                if _TRACE_PARENT.fullmatch(value) is None:
                    return None
                trace = value
            at = end
        if not data.startswith(self._last, at):
            return None
        begin, end = at + len(self._last), len(data) - len(self._after)
        numbers = data[begin:end]
        if not self.form.layout.fits(numbers) or length not in (-1, self._body_bytes + end - begin):
            return None
        return Matched(numbers, trace) if not self._after or data.endswith(self._after) else None


class FormMemory:
    """What one connection remembers of its requests, if anything; the limit is of a body."""

    __slots__ = ("_is_on", "_limit_bytes", "misses", "pattern", "whole")

    def __init__(self, limit_bytes: int, is_on: bool) -> None:
        self._limit_bytes, self._is_on, self.misses = limit_bytes, is_on, 0
        self.pattern: RequestPattern | None = None
        self.whole = b""  # what was read when the parser was between two requests

    def wants(self) -> bool:
        """Note a request that was parsed, and say whether its form should be looked for.

        Not of the first one, as many connections bring no other, and seldom where they differ too much.
        """
        self.misses += 1
        is_due = _FIRST <= self.misses <= _MOST_MISSES or not self.misses % _TRY_EVERY
        return self._is_on and bool(self.whole) and is_due

    def learn(self, body_bytes: int, form: RequestForm) -> None:
        """Remember the request that was read last."""
        self.pattern = remember(self.whole, body_bytes, form, self._limit_bytes)


def remember(data: bytes, body_bytes: int, form: RequestForm, limit_bytes: int) -> RequestPattern | None:
    """Make the pattern of a request that came whole and alone; `None` where its bytes do not show it."""
    head_bytes = len(data) - body_bytes
    if not data.startswith(b"POST ") or data.find(b"\r\n\r\n") + len(b"\r\n\r\n") != head_bytes:
        return None
    pieces, at = [], 0
    for field in _FIELD.finditer(data, 0, head_bytes - len(b"\r\n")):
        name = field[1].lower()
        if name == _LENGTH:
            kind = None if form.layout.size_bytes else _LENGTH
        else:
            kind = (name if name == _TRACE else _ANY) if name.decode("latin-1") in VARYING else None
        if kind is not None:
            pieces.append((data[at : field.start(2)], kind))
            at = field.end(2)
    kinds = [kind for _, kind in pieces]
    last = data[at:head_bytes] + form.layout.before
    if kinds.count(_TRACE) > 1 or not (form.layout.size_bytes or _LENGTH in kinds) or not data.startswith(last, at):
        return None
    return RequestPattern(form, pieces, last, limit_bytes)
