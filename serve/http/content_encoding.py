"""The bytes of a request after decompression, and those of an answer before compression."""

from __future__ import annotations

from serve.codec import compression
from serve.http.messages import Body, Request, Response


def read_content(request: Request, limit_bytes: int) -> Body:
    """Return the body of a request as its sender meant it.

    Raises:
        RequestError: it is compressed in a way that nobody reads, damaged, or too long.
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
