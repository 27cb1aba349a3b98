"""The forms of arrays: what they say of an example, with the lengths that are open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy

from serve.model.predictor import TEXT, ArrayForm

_PLAIN = {"f": "float32", "i": "int64", "u": "uint8", "b": "bool", "U": TEXT}
# The dimensions of an input that may have any length, with the names of those lengths.
Axes = Mapping[int, str]


def form_of(name: str, value: object, axes: Axes = MappingProxyType({})) -> ArrayForm | None:
    """Tell what array can stand for a value as JSON has it.

    Returns:
        Its form, with any number of rows; `None` where no array can.
    """
    try:
        array = numpy.array(value)
    except ValueError:  # lists of different lengths
        return None
    if array.dtype.kind not in _PLAIN or not array.shape:
        return None
    return ArrayForm(name, _PLAIN[array.dtype.kind], open_shape(array.shape, axes))


def open_shape(shape: Sequence[int], axes: Axes) -> tuple[int | None, ...]:
    """Return a shape in which some lengths are open.

    Args:
        axes: the dimensions that may have any length, beside the first: the rows, of which there may be any number.
    """
    return tuple(None if axis == 0 or axis in axes else int(length) for axis, length in enumerate(shape))


def format_shape(shape: Sequence[int | None]) -> str:
    """Write a shape for a message.

    Args:
        shape: lengths, `None` standing for any.
    """
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"
