"""JSON as the standard has it: no NaN, no infinity, valid UTF-8, and no deeper than a person would write it.

orjson reads and writes where it is installed (the extra `json`), the standard library otherwise; both refuse the same.
"""

from __future__ import annotations

import contextlib
import functools
import json
from typing import Any, NoReturn

import numpy as np

from serve.errors import RequestError

DEEPEST = 64
_BLOCK_BYTES = 1024 * 1024
_QUOTE = ord('"')


@functools.lru_cache(maxsize=1)
def _orjson() -> Any:
    try:
        import orjson
    except ImportError:
        return None
    return orjson


def parse(body: bytes, what: str = "the body") -> Any:
    """Read JSON text; raises `RequestError` where it is malformed, or nested too deeply."""
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        _require_depth(body, what)
    try:
        orjson = _orjson()
        if orjson is not None:
            return orjson.loads(body)
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"{what}: expected JSON, found an error in it: {error}") from error


def dump(content: object) -> bytes:
    """Write what JSON can hold, and contiguous numpy arrays; raises `ValueError` for NaN, infinities, `TypeError`."""
    orjson = _orjson()
    if orjson is not None:
        # It writes null for NaN and infinities, so without a null there was none; it has no number of over 64 bits.
        with contextlib.suppress(TypeError):
            text: bytes = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
            if b"null" not in text:
                return text
    return json.dumps(content, allow_nan=False, default=_to_plain, separators=(",", ":")).encode()


def _to_plain(value: object) -> object:
    if isinstance(value, (np.ndarray, np.generic)):
        plain: object = value.tolist()
        return plain
    raise TypeError(f"JSON cannot hold {type(value).__name__}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _require_depth(body: bytes, what: str) -> None:
    """Find how deep the brackets outside of texts go, block by block, before a parser recurses into them."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    body = body.translate(None, _OTHERS)
    depth, is_inside = 0, np.uint8(0)
    for start in range(0, len(body), _BLOCK_BYTES):
        block = np.frombuffer(body, np.uint8, min(_BLOCK_BYTES, len(body) - start), start)
        inside = np.bitwise_xor.accumulate((block == _QUOTE).view(np.uint8)) ^ is_inside
        brackets = block[inside == 0]
        steps = _STEPS[brackets]
        depths = np.cumsum(steps, dtype=np.int32) + depth
        if len(depths):
            if int(depths.max()) > DEEPEST:
                raise RequestError(400, f"{what}: expected JSON of at most {DEEPEST} levels, found more")
            depth = int(depths[-1])
        is_inside = inside[-1]


_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]] = 1
_STEPS[[ord("]"), ord("}")]] = -1
