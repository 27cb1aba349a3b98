"""Reading a request's body, up to a limit.

The limit is ours and not the framework's, which cuts a chunked body off at its limit and says nothing.
"""

from __future__ import annotations

import contextlib
from typing import IO

from serve.errors import RequestError

_CHUNK_BYTES = 64 * 1024
# A client that is still sending when the connection closes never sees why; longer bodies than this are cut off anyway.
_LONGEST_READ_AWAY_BYTES = 64 * 1024 * 1024


def read_body(stream: IO[bytes], limit_bytes: int) -> bytes | None:
    """Read a body to its end.

    Returns:
        The body, or `None` when it is longer; the rest is still to be read then.

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
    """Read what is left of a body that was refused, and throw it away.

    Args:
        stream: ends where the body ends, or with the connection.
    """
    size_bytes = 0
    with contextlib.suppress(Exception):  # the answer has gone; what ends the reading is the client's
        while size_bytes <= _LONGEST_READ_AWAY_BYTES and (chunk := stream.read(_CHUNK_BYTES)):
            size_bytes += len(chunk)


def _read(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(_CHUNK_BYTES)
    except Exception as error:  # the server's parser has errors of its own, which are all the client's
        raise RequestError(400, f"the body: expected it whole, found {type(error).__name__}") from error
