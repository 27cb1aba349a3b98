"""Rows of numbers as JSON has them, made an array by C loops only.

torch takes five times as long for ten numbers. What does not fit is not explained here, only found.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from typing import Any

import numpy

# By NumPy's name of a type.
# The standard library's array refuses texts and what overflows a whole number, where NumPy would read or wrap them.
CODES = {"float32": "f", "float64": "d", "int64": "q"}


def read_rows(inputs: object, dtype: str, row_shape: Sequence[int | None]) -> numpy.ndarray[Any, Any] | None:
    """Make an array of rows.

    Args:
        inputs: should be lists in lists, one for each dimension, of numbers.
        row_shape: the lengths after the first, `None` standing for any above 0.

    Returns:
        The array; numbers that are too large for its floating type are infinite in it. `None` where the inputs are
        something else, have another shape, or where this knows nothing of the type.
    """
    code = CODES.get(dtype)
    if code is None or type(inputs) is not list or not inputs:
        return None
    level: list[Any] = inputs
    shape = [len(inputs)]
    for length in row_shape:
        if set(map(type, level)) != {list}:
            return None
        shape.append(len(level[0]) if length is None else length)
        if set(map(len, level)) != {shape[-1]} or (not shape[-1] and length is None):
            return None
        level = level[0] if len(level) == 1 else list(itertools.chain.from_iterable(level))
    if not level:
        return None
    try:
        flat = array(code, level)
    except (TypeError, OverflowError):
        return None
    return numpy.frombuffer(flat, dtype).reshape(shape)
