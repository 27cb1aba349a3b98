"""The rows of what requests gave: counted, compared and joined, so that several requests can share a run.

They are arrays, tensors where NumPy has nothing for them, or mappings and tuples of either. Only workers import this.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy
import torch

_ARRAYS = (numpy.ndarray, torch.Tensor)


def count_rows(prepared: Any) -> int:
    """Count the rows of what a request gave: the first length that all of its arrays share.

    0 where they share none, or where it is no array: its first dimension is then no row, and nothing can be joined.
    """
    if type(prepared) is numpy.ndarray:
        return int(prepared.shape[0]) if prepared.ndim else 0
    arrays = _arrays(prepared)
    lengths = {array.shape[0] if isinstance(array, _ARRAYS) and array.ndim else 0 for array in arrays}
    return int(lengths.pop()) if len(lengths) == 1 else 0


def batch_key(prepared: Any) -> Hashable:
    """Return what two requests must have in common to be joined: names, types and the shapes of their rows."""
    if type(prepared) is numpy.ndarray:
        return prepared.dtype.char, prepared.shape[1:]
    names = tuple(prepared) if isinstance(prepared, Mapping) else type(prepared)
    return (names, *((array.dtype, tuple(array.shape[1:])) for array in _arrays(prepared)))


def stack(several: Sequence[Any]) -> Any:
    """Join the rows of several requests.

    Args:
        several: what requests gave, all with the same `batch_key`.
    """
    first = several[0]
    if isinstance(first, numpy.ndarray):
        return numpy.concatenate(several)
    if isinstance(first, torch.Tensor):
        return torch.cat(list(several))
    if isinstance(first, Mapping):
        return {name: stack([prepared[name] for prepared in several]) for name in first}
    return tuple(stack(arrays) for arrays in zip(*several))


def _arrays(prepared: Any) -> Sequence[Any]:
    if isinstance(prepared, _ARRAYS):
        return (prepared,)
    if isinstance(prepared, Mapping):
        return tuple(prepared.values())
    return prepared if type(prepared) is tuple else ()  # a list or a named tuple is something else to a module
