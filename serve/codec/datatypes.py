"""The datatypes of the Open Inference Protocol, arrays of them out of bytes and back, and the bytes after the JSON.

Every length is checked against what is there before an array is made, so a request cannot ask for more memory than a
small multiple of its own size. `serve.codec.elements` does the same for JSON.

Source: Open Inference Protocol, "Tensor Data Types"; Triton's binary tensor data extension.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from serve.codec.excerpt import excerpt
from serve.errors import RequestError

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]
else:
    Array = np.ndarray  # takes no parameters before numpy 1.22

BYTES = "BYTES"
BOOL = "BOOL"
# bfloat16 is unknown to numpy: it is read as float32, which holds each of its values, and never written.
BF16 = "BF16"
DTYPES: Mapping[str, np.dtype[Any]] = {
    BOOL: np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_U2 = np.dtype("<u2")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_READABLE = (*DTYPES, BF16, BYTES)
_MOST_DIMENSIONS = 32  # numpy's own limit before version 2
_MOST_ELEMENTS = 2**48
_PREFIX = struct.Struct("<I")
HEADER = "Inference-Header-Content-Length"
Body = Union[bytes, bytearray, memoryview]
_DIGITS = re.compile(r"[0-9]{1,18}")
# Copying so few takes less than making a view of them.
_COPIED_BYTES = 4096


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
        raise ValueError(f"expected one of {', '.join(_READABLE)}, found {dtype}") from None


def require_datatype(found: object, where: str) -> str:
    """Read the name of a datatype; raises `RequestError` for an unknown one."""
    if not isinstance(found, str) or found not in _READABLE:
        raise RequestError(400, f"{where}: expected a datatype of {', '.join(_READABLE)}, found {excerpt(found)}")
    return found


def require_shape(found: object, where: str) -> tuple[int, ...]:
    """Read a shape; raises `RequestError` for a malformed one, or one of more elements than any body can hold."""
    shape = tuple(found) if isinstance(found, list) else (-1,)
    if len(shape) > _MOST_DIMENSIONS or not all(type(length) is int and length >= 0 for length in shape):
        raise RequestError(
            400, f"{where}: expected up to {_MOST_DIMENSIONS} lengths of at least 0, found {excerpt(found)}"
        )
    if count_elements(tuple(length or 1 for length in shape)) > _MOST_ELEMENTS:
        raise RequestError(400, f"{where}: expected at most {_MOST_ELEMENTS} elements, found the shape {list(shape)}")
    return shape


def count_elements(shape: Sequence[int]) -> int:
    """Multiply the lengths of a shape, without overflow."""
    count = 1
    for length in shape:
        count *= length
    return count


def from_bytes(data: memoryview, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """Make an array of a request's bytes: a read-only view of them, except for `BYTES` and `BF16`.

    Args:
        data: little-endian, row-major, nothing between the elements.

    Raises:
        RequestError: there are fewer or more bytes than the shape takes.
    """
    count = count_elements(shape)
    if datatype == BYTES:
        return text_array(_split_texts(data, count, where)).reshape(shape)
    dtype = DTYPES.get(datatype, _U2)
    if len(data) != count * dtype.itemsize:
        raise RequestError(
            400, f"{where}: expected {count * dtype.itemsize} bytes for {datatype} {list(shape)}, found {len(data)}"
        )
    array = np.ndarray(shape, dtype, data)
    if datatype == BF16:
        return (array.astype("<u4") << 16).view("<f4")
    if datatype == BOOL and bool((array.view("u1") > 1).any()):
        raise RequestError(400, f"{where}: expected 0 or 1 in each byte of BOOL, found another value")
    return array


def _split_texts(data: memoryview, count: int, where: str) -> list[bytes]:
    if count * _PREFIX.size > len(data):
        raise RequestError(
            400, f"{where}: expected at least {count * _PREFIX.size} bytes for {count} elements, found {len(data)}"
        )
    texts, position = [], 0
    for index in range(count):
        begin = position + _PREFIX.size
        length = _PREFIX.unpack_from(data, position)[0] if begin <= len(data) else 0
        position = begin + length
        if position > len(data):
            raise RequestError(
                400, f"{where}: element {index}: expected it to end by byte {len(data)}, found an end at {position}"
            )
        texts.append(bytes(data[begin:position]))
    if position != len(data):
        raise RequestError(400, f"{where}: expected {count} elements in {len(data)} bytes, found more after {position}")
    return texts


def text_array(texts: Sequence[bytes]) -> Array:
    """Make an array of one dimension of texts in UTF-8, or any other bytes, each as long as it is."""
    # Filled and not converted: numpy would make room for the longest text in every element.
    array = np.empty(len(texts), object)
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


def split_body(body: Body, header_length: str | None) -> tuple[bytes, memoryview]:
    """Split a body into its JSON text and a view of the bytes after it.

    Args:
        header_length: the value of `Inference-Header-Content-Length`.

    Raises:
        RequestError: the length is malformed, or goes beyond the body.
    """
    if header_length is None:
        return bytes(body), memoryview(b"")
    length = int(header_length) if _DIGITS.fullmatch(header_length.strip()) else len(body) + 1
    if length > len(body):
        raise RequestError(400, f"{HEADER}: expected 0 to {len(body)}, found {excerpt(header_length)}")
    return bytes(body[:length]), memoryview(body)[length:]


def is_raw(header_length: str | None) -> bool:
    """Whether all of a body is one tensor, by the value of `Inference-Header-Content-Length`."""
    return header_length is not None and header_length.strip() == "0"


class BinaryPart:
    """Hands out the bytes after the JSON, in the order of the inputs."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def take(self, size_bytes: object, where: str) -> memoryview:
        """Take the next bytes, as a view; raises `RequestError` for a malformed size, or one beyond what is left."""
        rest = len(self._data) - self._position
        if type(size_bytes) is not int or not 0 <= size_bytes <= rest:
            raise RequestError(
                400, f"{where}: binary_data_size: expected 0 to the {rest} bytes left, found {excerpt(size_bytes)}"
            )
        begin, self._position = self._position, self._position + size_bytes
        return self._data[begin : self._position]

    def require_end(self) -> None:
        """Refuse bytes that belong to no tensor; raises `RequestError`."""
        rest = len(self._data) - self._position
        if rest:
            raise RequestError(
                400, f"the body: expected {self._position} bytes after its JSON part, found {len(self._data)}"
            )
