"""The rules for a request's head, the same under both workers, and the lines between the chunks of its body.

Also the head without an offered upgrade: RFC 9110, 7.8, lets a server ignore the offer, and then body and framing are
those of any request. httptools takes an offer for the end of HTTP on the connection (httptools#124), so it must not see
one. A client sends the same head over and over, so what was understood of it is remembered. And RFC 9112, 7.1.1: blanks
around the parts of a chunk extension, which httptools refuses, are to be read and removed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, NamedTuple

from serve.http.messages import Found, Table, headers_of

Field = tuple[bytes, bytes]
_MARKS_BYTES = len(": \r\n")  # between name and value, and at the end of the line; gunicorn counts them, too


class Bounds(NamedTuple):
    """What a peer may do."""

    line_bytes: int
    fields: int
    field_bytes: int
    timeout_s: float  # in which a head must be complete, and in which a body or a peer that reads must make progress

    @property
    def head_bytes(self) -> int:
        """The longest head that keeps to the other bounds."""
        return self.line_bytes + self.fields * self.field_bytes


class Fault(NamedTuple):
    """Why a request is refused for its head."""

    status: int
    message: str


# What follows a CONNECT is no HTTP, whoever offers it.
NO_PROXY = Fault(405, "CONNECT: expected a request to this server, which is no proxy")


def find_fault(bounds: Bounds, version: str, url: bytes, fields: Sequence[Field]) -> Fault | None:
    """Find what is wrong with a head that could be parsed."""
    if len(url) > bounds.line_bytes:
        return Fault(414, f"the path: expected at most {bounds.line_bytes} bytes, found {len(url)}")
    longest = max((len(name) + len(value) for name, value in fields), default=0) + _MARKS_BYTES
    if len(fields) > bounds.fields or longest > bounds.field_bytes:
        return too_large(bounds)
    hosts = sum(name == b"host" for name, _ in fields)
    if hosts > 1 or (hosts == 0 and version == "1.1"):  # RFC 9112, 3.2
        return Fault(400, f"Host: expected one, found {hosts or 'none'}")
    for name, value in fields:
        if name == b"expect" and version == "1.1" and value.lower() != b"100-continue":
            return Fault(417, f"Expect: expected 100-continue, found {value.decode('latin-1')!r}")
    return None


def too_large(bounds: Bounds) -> Fault:
    """The fault of a head that is too large, or goes on for too long."""
    expected = f"expected at most {bounds.fields} fields of {bounds.field_bytes} bytes each"
    return Fault(431, f"the head: {expected}, found more")


def without_offer(method: bytes, url: bytes, version: str, fields: Sequence[Field]) -> bytes:
    """Write a head that was parsed once more, without the upgrade that it offers."""
    lines = [b"%s: %s\r\n" % field for field in fields if field[0] != b"upgrade"]
    return b"".join((b"%s %s HTTP/%s\r\n" % (method, url, version.encode()), *lines, b"\r\n"))


_MOST_REMEMBERED, _LONGEST_REMEMBERED_BYTES = 1000, 2048


class Head(NamedTuple):
    """The head of a POST request."""

    found: Found | None  # the route of a prediction and the parts of the path that it names; `None` for everything else
    path: str = ""
    headers: Mapping[str, str] = {}
    is_plain: bool = False  # whether a stated length is all that it asks for


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


_END = b"\r\n"
_LONGEST_BYTES = 4096
_HEAD_END = b"\r\n\r\n"
_SMALL_BYTES = 2048  # an ordinary request is searched as a whole, which is quicker than to part it
# A size, and extensions of visible characters and blanks.
_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class ChunkLines:
    """Rewrites the lines of one body; the chunks themselves pass as they are."""

    def __init__(self) -> None:
        self._line, self._left = b"", 0
        self.is_over = False

    def rewrite(self, data: bytes) -> tuple[bytes, bytes]:
        """Rewrite what came of a body; return what the parser is given, and what follows the line of the last chunk."""
        found = []
        while data and not self.is_over:
            if self._left:
                found.append(data[: self._left])
                data, self._left = data[self._left :], max(0, self._left - len(data))
                continue
            begun = len(self._line)
            line = self._line + data[:_LONGEST_BYTES]
            end = line.find(_END)
            if end < 0 and len(line) <= _LONGEST_BYTES:
                self._line = line
                return b"".join(found), b""
            line = line[: end + len(_END)] if end >= 0 else line
            data, self._line = data[len(line) - begun :], b""
            stated = _LINE.fullmatch(line)
            # What is no such line is the parser's to refuse, and what follows it as well.
            found.append(stated.group(1) + _END if stated else line)
            size = int(stated.group(1), 16) if stated else 0
            self._left, self.is_over = size + len(_END), size == 0
        return b"".join(found), data


class Splitter:
    """Cuts what comes on a connection behind the heads of requests, and rewrites the lines of chunks from there on."""

    def __init__(self) -> None:
        self._lines: ChunkLines | None = None
        self._tail, self._is_cut = b"", False

    def split(self, data: bytes, is_in_head: bool, is_in_body: bool, left: Callable[[], int]) -> Iterator[bytes]:
        """Yield the pieces for the parser, which is given each before the next one is made. A head, or a body, may have
        begun in an earlier segment. `left` tells how many bytes of a body of known length are still to come: no head
        begins in them."""
        known = self._tail if is_in_head else b""
        self._tail = (known + data[1 - len(_HEAD_END) :])[1 - len(_HEAD_END) :]
        is_begun = is_in_head or is_in_body or self._lines is not None
        if not is_begun and len(data) <= _SMALL_BYTES and b"chunked" not in data.lower():
            self._is_cut = False
            yield data
            return
        while data:
            if self._lines is not None:
                piece, data = self._lines.rewrite(data)
                self._lines = None if self._lines.is_over else self._lines
            else:
                body = 0 if is_in_head else left()
                end = body or (known + data).find(_HEAD_END) + len(_HEAD_END) - len(known)
                self._is_cut = not body and end > len(_HEAD_END) - 1 - len(known)
                piece, data = (data[:end], data[end:]) if body or self._is_cut else (data, b"")
            known, is_in_head = b"", False
            if piece:
                yield piece

    def note_head(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Note that the parser has read the head of a request."""
        if self._is_cut and any(name == b"transfer-encoding" for name, _ in fields):
            self._lines = ChunkLines()
