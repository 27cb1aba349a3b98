"""Bodies: reading a request's up to a limit, and the compression of both ways.

The limit is ours and not the framework's, which silently cuts a chunked body off at its limit.
"""

from __future__ import annotations

import contextlib
from typing import IO

from serve.codec import compression
from serve.errors import RequestError
from serve.http.messages import Body, Request, Response

_CHUNK_BYTES = 64 * 1024
# A client that is still sending when the connection closes never sees why; longer bodies than this are cut off anyway.
_LONGEST_READ_AWAY_BYTES = 64 * 1024 * 1024


def read_body(stream: IO[bytes], limit_bytes: int) -> bytes | None:
    """Read a body to its end; return `None` for one that is too long, the rest of which is still to be read.

    Raises:
        RequestError: it is cut off, or its chunks are malformed.
    """
    chunks: list[bytes] = []
    size_bytes = 0
    while chunk := _read(stream):
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def read_away(stream: IO[bytes]) -> None:
    """Read and discard what is left of a refused body, whose stream ends with the body or with the connection."""
    size_bytes = 0
    with contextlib.suppress(Exception):  # the answer has gone; what ends the reading is the client's
        while size_bytes <= _LONGEST_READ_AWAY_BYTES and (chunk := stream.read(_CHUNK_BYTES)):
            size_bytes += len(chunk)


def _read(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(_CHUNK_BYTES)
    except Exception as error:  # the server's parser has errors of its own, which are all the client's
        raise RequestError(400, f"the body: expected it whole, found {type(error).__name__}") from error


def read_content(request: Request, limit_bytes: int) -> Body:
    """Return the decompressed body of a request.

    Raises:
        RequestError: its encoding is unknown, or it is damaged or too long.
    """
    encoding = request.headers.get("content-encoding")
    if encoding is None:
        return request.body
    return compression.decompress(bytes(request.body), encoding, limit_bytes)


def pack(answer: Response, request: Request) -> Response:
    """Compress an answer where the client asks for it and it pays."""
    accepted = request.headers.get("accept-encoding")
    if not accepted or sum(map(len, answer.parts)) < compression.SHORTEST_BYTES:
        return answer
    headers, body = compression.compress(b"".join(answer.parts), accepted)
    return answer._replace(headers={**answer.headers, **headers}, body=body)
