"""Requests and responses as handlers see them, whatever server carries them; their bodies; their routes.

The limit of a body is ours and not the framework's, which silently cuts a chunked body off at its limit; it is on what
the body becomes when decompressed. Source: RFC 9110, sections 8.4 and 12.5.3."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Callable, Generic, NamedTuple, TypeVar, Union

from serve.errors import RequestError, excerpt

_JSON = {"Content-Type": "application/json"}
RETRY_AFTER_S = 1
Body = Union[bytes, bytearray, memoryview]
Part = Union[bytes, memoryview]


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    headers: Mapping[str, str]  # by their names in lower case
    body: Body  # as it was sent, not decompressed
    place: Mapping[str, str]  # the parts of the path that its route names, `name` and `version` among them
    query: str = ""  # the part after the question mark, undecoded


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


_CHUNK_BYTES = 64 * 1024
# A client that is still sending when the connection closes never sees why; longer bodies than this are cut off anyway.
LONGEST_READ_AWAY_BYTES = 64 * 1024 * 1024


def read_body(stream: IO[bytes], limit_bytes: int) -> bytes | None:
    """Read a body to its end; return `None` within one that is too long; a malformed one raises `RequestError`."""
    chunks: list[bytes] = []
    size_bytes = 0
    while size_bytes <= limit_bytes:
        try:
            chunk = stream.read(_CHUNK_BYTES)
        except Exception as error:  # the server's parser has errors of its own, which are all the client's
            raise RequestError(400, f"the body: expected it whole, found {type(error).__name__}") from error
        if not chunk:
            return b"".join(chunks)
        size_bytes += len(chunk)
        chunks.append(chunk)
    return None


def read_away(stream: IO[bytes]) -> None:
    """Read and discard what is left of a refused body, whose stream ends with the body or with the connection."""
    size_bytes = 0
    with contextlib.suppress(Exception):  # the answer has gone; what ends the reading is the client's
        while size_bytes <= LONGEST_READ_AWAY_BYTES and (chunk := stream.read(_CHUNK_BYTES)):
            size_bytes += len(chunk)


def read_content(request: Request, limit_bytes: int) -> Body:
    """Return the decompressed body of a request; raises `RequestError` for one that is damaged, too long or unknown."""
    encoding = request.headers.get("content-encoding")
    if encoding is None:
        return request.body
    return decompress(bytes(request.body), encoding, limit_bytes)


def pack(answer: Response, request: Request) -> Response:
    """Compress an answer where the client asks for it and it pays."""
    accepted = request.headers.get("accept-encoding")
    if not accepted or sum(map(len, answer.parts)) < SHORTEST_BYTES:
        return answer
    name, headers = choose_encoding(accepted), {**answer.headers, "Vary": "Accept-Encoding"}
    if name is None:
        return answer._replace(headers=headers)
    body = b"".join(answer.parts)
    packed = gzip.compress(body, _QUICK, mtime=0) if name == "gzip" else zlib.compress(body, _QUICK)
    return answer._replace(headers={**headers, "Content-Encoding": name}, body=packed)


ENCODINGS = ("gzip", "deflate")
SHORTEST_BYTES = 4096  # shorter answers than this gain nothing
_QUICK = 1
_EITHER_FORMAT = 32 + zlib.MAX_WBITS  # zlib tells a gzip header from its own
_NO_HEADER = -zlib.MAX_WBITS


def decompress(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Decompress a body by its `Content-Encoding`; raises `RequestError` for one unknown, damaged or too long."""
    wanted = encoding.strip().lower()
    if wanted in ("identity", ""):
        return body
    name = wanted[2:] if wanted.startswith("x-") else wanted
    if name not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        said = f"Content-Encoding: expected {known} or none, found {excerpt(encoding)}"
        raise RequestError(415, said, {"Accept-Encoding": known})
    # Some clients send deflate without the zlib header that the standard asks for.
    is_headless = name == "deflate" and (len(body) < 2 or body[0] & 15 != 8 or (body[0] * 256 + body[1]) % 31)
    reader = zlib.decompressobj(_NO_HEADER if is_headless else _EITHER_FORMAT)
    try:
        content = reader.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise RequestError(400, f"the body: expected {name}, found damaged data: {error}") from error
    if len(content) > limit_bytes:
        raise RequestError(413, f"the body: expected at most {limit_bytes} bytes when decompressed, found more")
    if not reader.eof or reader.unused_data:
        found = f"{len(reader.unused_data)} bytes after its end" if reader.eof else "it cut off"
        raise RequestError(400, f"the body: expected one whole {name} stream, found {found}")
    return content


def choose_encoding(accepted: str) -> str | None:
    """Choose one of `ENCODINGS` by the value of `Accept-Encoding`; `None` where it allows none of them."""
    weights = dict(_weigh(part) for part in accepted.lower().split(","))
    known = [(weights.get(name, weights.get("*", 0.0)), -place, name) for place, name in enumerate(ENCODINGS)]
    weight, _, name = max(known)
    return name if weight > 0 else None


def _weigh(part: str) -> tuple[str, float]:
    name, _, rest = part.partition(";")
    key, _, value = rest.strip().partition("=")
    if key.strip() != "q":
        return name.strip(), 1.0
    try:
        return name.strip(), min(max(float(value), 0.0), 1.0)
    except ValueError:
        return name.strip(), 0.0


Context = TypeVar("Context", contravariant=True)
Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True, eq=False)
class Route(Generic[Context, Result]):
    """One path."""

    method: str  # of the requests; `GET` means `HEAD` too
    pattern: str
    handle: Callable[[Context, Request], Result]  # answers, without knowing which server carries it
    protocol: str = ""  # in which a prediction speaks, as the metrics name it; nothing for what is no prediction


_MOST_REMEMBERED_PATHS = 1000
Found = tuple[Route[Any, Any], Mapping[str, str]]


class Table:
    """Finds the route of a prediction by its path."""

    def __init__(self, routes: Sequence[Route[Any, Any]]) -> None:
        part = re.compile(r"<(\w+)>")
        self._routes = [(route, re.compile(part.sub(r"(?P<\1>[^/]+)", route.pattern))) for route in routes]
        self._remembered: dict[tuple[str, str], Found] = {}

    def find(self, method: str, path: str) -> Found | None:
        """Find a route, and the parts of the path that it names, by the decoded path without its query."""
        found = self._remembered.get((method, path))
        if found is None:
            fitting = ((route, pattern.fullmatch(path)) for route, pattern in self._routes if route.method == method)
            found = next(((route, fits.groupdict()) for route, fits in fitting if fits), None)
            if found is not None and len(self._remembered) < _MOST_REMEMBERED_PATHS:
                self._remembered[method, path] = found
        return found
