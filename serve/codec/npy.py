"""NumPy's `.npy`: one array of numbers. Objects, which would be unpickled, and records are refused.

Source: NEP 1, "A Simple File Format for NumPy Arrays"."""

from __future__ import annotations

import io
import math
import re
import struct
from typing import Any, Literal

import numpy as np

from serve.codec import datatypes
from serve.codec.datatypes import Array
from serve.errors import RequestError, excerpt

CONTENT_TYPES = ("application/x-npy", "application/npy", "application/x-numpy")
_MAGIC = b"\x93NUMPY"
# By the format's version: how the length of the header is written.
_LENGTHS = {1: struct.Struct("<H"), 2: struct.Struct("<I"), 3: struct.Struct("<I")}
_LONGEST_HEADER_BYTES = 10_000
# The header is a literal of Python, of which only these three entries matter; it is not given to Python's parser.
_DESCR = re.compile(r"'descr'\s*:\s*'([^']*)'")
_FORTRAN_ORDER = re.compile(r"'fortran_order'\s*:\s*(True|False)")
_SHAPE = re.compile(r"'shape'\s*:\s*\(\s*((?:[0-9]{1,18}\s*(?:,\s*|(?=\))))*)\)")
_NUMBERS = re.compile(r"\|b1|\|[iu]1|[<>=](f[248]|[iu][1248])")
_WHERE = "the .npy body"


def decode(body: bytes) -> Array:
    """Read an array, as a view of a whole `.npy` file; raises `RequestError` for one malformed, or not of numbers."""
    header, begin = _read_header(body)
    stated = _find(_DESCR, header)
    if not _NUMBERS.fullmatch(stated):
        raise RequestError(400, f"{_WHERE}: expected numbers or truth values, found the dtype {excerpt(stated)}")
    dtype: np.dtype[Any] = np.dtype(stated)
    lengths = [int(length) for length in _find(_SHAPE, header).split(",") if length.strip()]
    shape = datatypes.require_shape(lengths, f"{_WHERE}: shape")
    expected_bytes, found_bytes = math.prod(shape) * dtype.itemsize, len(body) - begin
    if found_bytes != expected_bytes:
        expected = f"expected {expected_bytes} bytes for {dtype} {list(shape)}"
        raise RequestError(400, f"{_WHERE}: {expected}, found {found_bytes}")
    order: Literal["F", "C"] = "F" if _find(_FORTRAN_ORDER, header) == "True" else "C"
    return np.frombuffer(body, dtype, offset=begin).reshape(shape, order=order)


def _read_header(body: bytes) -> tuple[str, int]:
    length = _LENGTHS.get(body[6]) if body[:6] == _MAGIC and len(body) > 12 else None
    if length is None:
        raise RequestError(400, f"{_WHERE}: expected it to begin with \\x93NUMPY and 1, 2 or 3, found {body[:8]!r}")
    begin = 8 + length.size
    size_bytes = length.unpack_from(body, 8)[0]
    if size_bytes > min(_LONGEST_HEADER_BYTES, len(body) - begin):
        raise RequestError(400, f"{_WHERE}: expected a header inside the body, found a length of {size_bytes}")
    return body[begin : begin + size_bytes].decode("latin-1"), begin + size_bytes


def _find(entry: re.Pattern[str], header: str) -> str:
    found = entry.search(header)
    if found is None:
        expected = "expected a header with descr, fortran_order and shape of one array"
        raise RequestError(400, f"{_WHERE}: {expected}, found {excerpt(header)}")
    return found.group(1)


def encode(array: Array) -> bytes:
    """Write an array; raises `ValueError` where it holds objects."""
    writer = io.BytesIO()
    np.save(writer, array, allow_pickle=False)
    return writer.getvalue()
