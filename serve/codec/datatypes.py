"""The datatypes of the Open Inference Protocol, and arrays of them out of bytes or JSON lists and back.

Every length is checked against what is there before an array is made, so a request cannot ask for more memory than a
small multiple of its own size. In JSON, texts and numbers are distinguished by Python's types and never by numpy, which
takes "1" for a number, `null` for NaN, and makes room for the longest text in every element of an array of texts.
Source: Open Inference Protocol, "Tensor Data Types"; Triton's binary tensor data extension."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from serve.errors import RequestError, excerpt

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]
else:
    Array = np.ndarray  # takes no parameters before numpy 1.22

BYTES = "BYTES"
BOOL = "BOOL"
BF16 = "BF16"  # bfloat16 is unknown to numpy: it is read as float32, which holds each of its values, and never written
DTYPES: Mapping[str, np.dtype[Any]] = {
    BOOL: np.dtype("?"),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
_U2 = np.dtype("<u2")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
READABLE = (*DTYPES, BF16, BYTES)
_MOST_DIMENSIONS = 32  # numpy's own limit before version 2
_MOST_ELEMENTS = 2**48
_PREFIX = struct.Struct("<I")
_COPIED_BYTES = 4096  # copying so few takes less than making a view of them


def name_of(dtype: np.dtype[Any]) -> str:
    """Name the datatype of an array; raises `ValueError` where the protocol has no name for it."""
    name = _NAMES.get(dtype)
    if name is not None:
        return name
    if dtype.kind in "OSU":
        return BYTES
    try:
        return _NAMES[dtype.newbyteorder("<")]
    except KeyError:
        raise ValueError(f"expected one of {', '.join(READABLE)}, found {dtype}") from None


def require_shape(found: object, where: str) -> tuple[int, ...]:
    """Read a shape; raises `RequestError` for a malformed one, or one of more elements than any body can hold."""
    shape = tuple(found) if isinstance(found, list) else (-1,)
    if len(shape) > _MOST_DIMENSIONS or not all(type(length) is int and length >= 0 for length in shape):
        expected = f"expected up to {_MOST_DIMENSIONS} lengths of at least 0"
        raise RequestError(400, f"{where}: {expected}, found {excerpt(found)}")
    if math.prod(tuple(length or 1 for length in shape)) > _MOST_ELEMENTS:
        raise RequestError(400, f"{where}: expected at most {_MOST_ELEMENTS} elements, found the shape {list(shape)}")
    return shape


def from_bytes(data: memoryview, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """Make an array of a request's bytes: a read-only view of them, except for `BYTES` and `BF16`. They are
    little-endian, row-major, with nothing between the elements; too few or too many raise `RequestError`."""
    count = math.prod(shape)
    if datatype == BYTES:
        return text_array(_split_texts(data, count, where)).reshape(shape)
    dtype = DTYPES.get(datatype, _U2)
    size = count * dtype.itemsize
    if len(data) != size:
        raise RequestError(400, f"{where}: expected {size} bytes for {datatype} {list(shape)}, found {len(data)}")
    array = np.ndarray(shape, dtype, data)
    if datatype == BF16:
        return (array.astype("<u4") << 16).view("<f4")
    if datatype == BOOL and bool((array.view("u1") > 1).any()):
        raise RequestError(400, f"{where}: expected 0 or 1 in each byte of BOOL, found another value")
    return array


def _split_texts(data: memoryview, count: int, where: str) -> list[bytes]:
    least = count * _PREFIX.size
    if least > len(data):
        raise RequestError(400, f"{where}: expected at least {least} bytes for {count} elements, found {len(data)}")
    texts, position = [], 0
    for index in range(count):
        begin = position + _PREFIX.size
        length = _PREFIX.unpack_from(data, position)[0] if begin <= len(data) else 0
        position = begin + length
        if position > len(data):
            expected = f"element {index}: expected it to end by byte {len(data)}"
            raise RequestError(400, f"{where}: {expected}, found an end at {position}")
        texts.append(bytes(data[begin:position]))
    if position != len(data):
        raise RequestError(400, f"{where}: expected {count} elements in {len(data)} bytes, found more after {position}")
    return texts


def text_array(texts: Sequence[bytes | str]) -> Array:
    """Make an array of one dimension of texts, or any bytes, each as long as it is."""
    array = np.empty(len(texts), object)  # filled, not converted: numpy would give every element the longest one's room
    array[:] = texts
    return array


def to_bytes(array: Array) -> bytes | memoryview:
    """Write an array as the binary extension has it, without a copy where its memory is laid out so."""
    if array.dtype.kind in "OSU":
        texts = [text.encode() if isinstance(text, str) else bytes(text) for text in array.ravel()]
        return b"".join(part for text in texts for part in (_PREFIX.pack(len(text)), text))
    if array.nbytes < _COPIED_BYTES and array.dtype in _NAMES:
        return array.tobytes()
    ready = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return ready.view("u1").reshape(-1).data if ready.size else b""


_JSON_NAMES = {
    dict: "an object", list: "lists of other depths", str: "a text", bool: "true or false", type(None): "null",
    int: "a whole number", float: "a fraction",
}  # fmt: skip


def from_json(data: object, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """Make an array of a JSON list, flat or nested as the shape, of UTF-8 texts for `BYTES`; raises `RequestError`."""
    (flat, nesting), count = flatten(data, where), math.prod(shape)
    if len(flat) != count or (len(nesting) > 1 and nesting != shape):
        found = f"{len(flat)} elements" if len(nesting) == 1 else f"the shape {list(nesting)}"
        raise RequestError(400, f"{where}: expected {count} elements for the shape {list(shape)}, found {found}")
    return _convert(flat, datatype, where).reshape(shape)


def flatten(data: object, where: str) -> tuple[list[object], tuple[int, ...]]:
    """Return the elements of nested lists in row-major order, and the lengths; ragged ones raise `RequestError`."""
    if not isinstance(data, list):
        raise RequestError(400, f"{where}: expected a list, found {excerpt(data)}")
    lengths, level = [len(data)], data
    while level and isinstance(level[0], list):
        length = len(level[0])
        if not all(isinstance(part, list) and len(part) == length for part in level):
            raise RequestError(400, f"{where}: expected lists of {length} elements each, found others beside them")
        lengths.append(length)
        level = list(chain.from_iterable(level))
    return level, tuple(lengths)


def _convert(flat: list[object], datatype: str, where: str) -> Array:
    kinds = set(map(type, flat))
    if datatype == BYTES:
        _require_kinds(kinds, {str}, "texts", where)
        try:
            return text_array([text.encode() for text in flat])  # type: ignore[attr-defined]
        except UnicodeEncodeError as error:
            raise RequestError(400, f"{where}: expected texts of Unicode characters, found {error.reason}") from error
    dtype = np.dtype("<f4") if datatype == BF16 else DTYPES[datatype]
    if dtype.kind == "b":
        _require_kinds(kinds, {bool}, "true or false", where)
    elif dtype.kind == "f":
        _require_kinds(kinds, {int, float}, "numbers", where)
        try:
            with np.errstate(over="ignore"):
                array = np.array(flat, dtype)
        except OverflowError:
            array = np.array([np.inf])
        if not np.isfinite(array).all():
            raise RequestError(400, f"{where}: expected numbers that fit {dtype.name}, found larger ones")
        return array
    else:
        _require_kinds(kinds, {int}, "whole numbers", where)
        limits = np.iinfo(dtype)
        for extreme in (min(flat), max(flat)) if flat else ():  # type: ignore[type-var]
            if not limits.min <= extreme <= limits.max:  # type: ignore[operator]
                expected = f"expected {limits.min} to {limits.max} for {datatype}"
                raise RequestError(400, f"{where}: {expected}, found {excerpt(extreme)}")
    return np.array(flat, dtype)


def _require_kinds(found: set[type], allowed: set[type], what: str, where: str) -> None:
    if not found <= allowed:
        names = ", ".join(sorted(_JSON_NAMES.get(kind, kind.__name__) for kind in found - allowed))
        raise RequestError(400, f"{where}: expected {what}, found {names}")


def to_json(array: Array, where: str) -> Array | list[str]:
    """Prepare an array for `strict_json.dump`: flat, row-major; `ValueError` for NaN, infinities and no UTF-8."""
    if array.dtype.kind in "OSU":
        return [text if isinstance(text, str) else bytes(text).decode() for text in array.ravel()]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{where}: expected finite numbers, found NaN or infinity")
    return np.ascontiguousarray(array.ravel(), array.dtype.newbyteorder("="))
