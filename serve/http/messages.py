"""Requests and responses as handlers see them, whatever server carries them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Union

_JSON = {"Content-Type": "application/json"}
RETRY_AFTER_S = 1
Body = Union[bytes, bytearray, memoryview]
Part = Union[bytes, memoryview]


class Request(NamedTuple):
    """One HTTP request.

    Args:
        headers: by their names in lower case.
        body: as it was sent, not decompressed.
        place: the parts of the path that its route names, `name` and `version` among them.
        query: the part after the question mark, undecoded.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body
    place: Mapping[str, str]
    query: str = ""


class Response(NamedTuple):
    """Status, headers (without the body's length) and body, or the parts of the body, of one HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes | Sequence[Part]

    @property
    def parts(self) -> Sequence[Part]:
        """The body as parts."""
        return (self.body,) if isinstance(self.body, bytes) else self.body


def succeed(content: object, headers: Mapping[str, str] | None = None) -> Response:
    """Answer 200 with a JSON body; raises `ValueError` for NaN or an infinity in it."""
    return Response(200, {**_JSON, **(headers or {})}, json.dumps(content, allow_nan=False).encode())


def fail(status: int, message: str, headers: Mapping[str, str] | None = None, **facts: object) -> Response:
    """Answer with an error; `facts` stand beside `error` in the body, for the client's program."""
    return Response(status, {**_JSON, **(headers or {})}, json.dumps({"error": message, **facts}).encode())


def not_live(reason: str) -> Response:
    """Answer that no model is live yet."""
    return fail(503, "no model is live yet", {"Retry-After": str(RETRY_AFTER_S)}, reason=reason)


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name, those that came more than once joined as WSGI servers join them."""
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in pairs:
        name, value = name_bytes.decode("latin-1"), value_bytes.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers
