"""Arrays out of the elements of JSON lists, and back.

Texts and numbers are distinguished by Python's types and never by numpy, which takes "1" for a number, `null` for NaN,
and makes room for the longest text in every element of an array of texts.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from serve.codec.datatypes import BF16, BYTES, DTYPES, Array, count_elements, text_array
from serve.codec.excerpt import excerpt
from serve.errors import RequestError

_JSON_NAMES = {
    dict: "an object",
    list: "lists of other depths",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    int: "a whole number",
    float: "a fraction",
}


def from_json(data: object, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """Make an array of a JSON list; its `BYTES` are the texts in UTF-8.

    Args:
        data: the elements in a flat list, or in lists nested as the shape is.

    Raises:
        RequestError: the elements are too few, too many, of another type, too large or not finite.
    """
    flat, nesting = flatten(data, where)
    if len(flat) != count_elements(shape) or (len(nesting) > 1 and nesting != shape):
        found = f"{len(flat)} elements" if len(nesting) == 1 else f"the shape {list(nesting)}"
        raise RequestError(
            400, f"{where}: expected {count_elements(shape)} elements for the shape {list(shape)}, found {found}"
        )
    return _convert(flat, datatype, where).reshape(shape)


def flatten(data: object, where: str) -> tuple[list[object], tuple[int, ...]]:
    """Return the elements of nested lists in row-major order, and the lengths of the lists.

    Raises:
        RequestError: it is not a list, or lists of one level differ in length.
    """
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
        return text_array(_encode(flat, where))
    dtype = np.dtype("<f4") if datatype == BF16 else DTYPES[datatype]
    if dtype.kind == "b":
        _require_kinds(kinds, {bool}, "true or false", where)
    elif dtype.kind == "f":
        _require_kinds(kinds, {int, float}, "numbers", where)
        return _to_floats(flat, dtype, where)
    else:
        _require_kinds(kinds, {int}, "whole numbers", where)
        limits = np.iinfo(dtype)
        for extreme in (min(flat), max(flat)) if flat else ():  # type: ignore[type-var]
            if not limits.min <= extreme <= limits.max:  # type: ignore[operator]
                raise RequestError(
                    400, f"{where}: expected {limits.min} to {limits.max} for {datatype}, found {excerpt(extreme)}"
                )
    return np.array(flat, dtype)


def _require_kinds(found: set[type], allowed: set[type], what: str, where: str) -> None:
    if not found <= allowed:
        names = ", ".join(sorted(_JSON_NAMES.get(kind, kind.__name__) for kind in found - allowed))
        raise RequestError(400, f"{where}: expected {what}, found {names}")


def _to_floats(flat: list[object], dtype: np.dtype[Any], where: str) -> Array:
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype)
    except OverflowError:
        array = np.array([np.inf])
    if not np.isfinite(array).all():
        raise RequestError(400, f"{where}: expected numbers that fit {dtype.name}, found larger ones")
    return array


def _encode(texts: list[Any], where: str) -> list[bytes]:
    try:
        return [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise RequestError(400, f"{where}: expected texts of Unicode characters, found {error.reason}") from error


def to_json(array: Array, where: str) -> Array | list[str]:
    """Prepare an array for `strict_json.dump`: flat, row-major.

    Raises:
        ValueError: it holds NaN or infinities, or bytes that are not UTF-8; JSON can hold neither.
    """
    if array.dtype.kind in "OSU":
        return [text if isinstance(text, str) else bytes(text).decode() for text in array.ravel()]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{where}: expected finite numbers, found NaN or infinity")
    return np.ascontiguousarray(array.ravel(), array.dtype.newbyteorder("="))
