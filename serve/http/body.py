"""Reading a request's body, up to a limit.

The limit is ours and not the framework's, which cuts a chunked body off at its limit and says nothing.
"""

from __future__ import annotations

from typing import IO

from serve.errors import RequestError

_CHUNK_BYTES = 64 * 1024
# A client that is still sending when the connection closes never sees why; longer bodies than this are cut off anyway.
_LONGEST_READ_AWAY_BYTES = 64 * 1024 * 1024


def read_body(stream: IO[bytes], limit_bytes: int) -> bytes | None:
    """Read a body to its end.

    Args:
        stream: ends where the body ends.
        limit_bytes: the longest body that is wanted.

    Returns:
        The body, or `None` when it is longer; what is too much was read and thrown away.

    Raises:
        RequestError: it is cut off, or its chunks are malformed.
    """
    chunks: list[bytes] = []
    size_bytes = 0
    while size_bytes <= limit_bytes + _LONGEST_READ_AWAY_BYTES:
        chunk = _read(stream)
        if not chunk:
            break
        size_bytes += len(chunk)
        if size_bytes <= limit_bytes:
            chunks.append(chunk)
        else:
            chunks.clear()
    return b"".join(chunks) if size_bytes <= limit_bytes else None


def _read(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(_CHUNK_BYTES)
    except Exception as error:  # the server's parser has errors of its own, which are all the client's
        raise RequestError(400, f"the body: expected it whole, found {type(error).__name__}") from error
