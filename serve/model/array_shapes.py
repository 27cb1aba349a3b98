"""The forms of arrays: those of an example, with the lengths that are open, and of the answers to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy

from serve.model.predictor import TEXT, ArrayForm, Predictor

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
    """Return a shape in which the number of rows and the lengths of `axes` are open."""
    return tuple(None if axis == 0 or axis in axes else int(length) for axis, length in enumerate(shape))


def format_shape(shape: Sequence[int | None]) -> str:
    """Write a shape for a message, `None` standing for any length."""
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"


def describe_outputs(predictor: Predictor, raw: Sequence[Any]) -> tuple[ArrayForm, ...]:
    """Return the forms of the outputs, with any number of rows; none where they are not arrays.

    Args:
        raw: what the module gave for the example, and for one of other lengths, which shows the lengths that vary.
    """
    try:
        arrays, *others = [predictor.postprocess_arrays(one) for one in raw]
    except ValueError:
        return ()
    return tuple(
        ArrayForm(
            name, TEXT if array.dtype == object else array.dtype.name, _shape([array, *(o[name] for o in others)])
        )
        for name, array in arrays.items()
    )


def _shape(arrays: Sequence[Any]) -> tuple[int | None, ...]:
    lengths = zip(*(array.shape[1:] for array in arrays))
    return (None, *(found[0] if len(set(found)) == 1 else None for found in lengths))
