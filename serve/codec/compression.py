"""Compressed bodies, both ways.

The limit of a body is on what it becomes, so that a small one cannot become a large one.

Source: RFC 9110, sections 8.4 and 12.5.3.
"""

from __future__ import annotations

import gzip
import zlib

from serve.codec.excerpt import excerpt
from serve.errors import RequestError

ENCODINGS = ("gzip", "deflate")
# Shorter answers than this gain nothing.
SHORTEST_BYTES = 4096
_QUICK = 1
_EITHER_FORMAT = 32 + zlib.MAX_WBITS  # zlib tells a gzip header from its own
_NO_HEADER = -zlib.MAX_WBITS


def decompress(body: bytes, encoding: str | None, limit_bytes: int) -> bytes:
    """Decompress a request's body; one that was not compressed is returned as it is.

    Args:
        encoding: the value of `Content-Encoding`.
        limit_bytes: the longest that the result may be.

    Raises:
        RequestError: the encoding is unknown, the data are damaged, or the result is too long.
    """
    wanted = (encoding or "identity").strip().lower()
    if wanted in ("identity", ""):
        return body
    name = wanted[2:] if wanted.startswith("x-") else wanted
    if name not in ENCODINGS:
        raise RequestError(
            415,
            f"Content-Encoding: expected {', '.join(ENCODINGS)} or none, found {excerpt(encoding)}",
            {"Accept-Encoding": ", ".join(ENCODINGS)},
        )
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


def choose_encoding(accepted: str | None) -> str | None:
    """Choose one of `ENCODINGS` by the value of `Accept-Encoding`; `None` where it allows none of them."""
    weights = dict(_weigh(part) for part in (accepted or "").lower().split(","))
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


def compress(body: bytes, accepted: str | None) -> tuple[dict[str, str], bytes]:
    """Compress an answer where `Accept-Encoding` allows it and it pays; return the headers for it, and the body."""
    if len(body) < SHORTEST_BYTES:
        return {}, body
    name = choose_encoding(accepted)
    if name is None:
        return {"Vary": "Accept-Encoding"}, body
    packed = gzip.compress(body, _QUICK, mtime=0) if name == "gzip" else zlib.compress(body, _QUICK)
    return {"Vary": "Accept-Encoding", "Content-Encoding": name}, packed
