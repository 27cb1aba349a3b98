"""The rows of what requests gave: counted, compared and joined, so that several requests can share a run.

They are arrays, tensors where NumPy has nothing for them, or mappings and tuples of either. Only workers import this.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy
import torch


def count_rows(taken: Any) -> int:
    """Count the rows of what a request gave: the first length of its first array."""
    return int(taken.shape[0] if type(taken) is numpy.ndarray else _arrays(taken)[0].shape[0])


def batch_key(taken: Any) -> Hashable:
    """Return what two requests must have in common to be joined: names, types and the shapes of their rows."""
    if type(taken) is numpy.ndarray:
        return taken.dtype.char, taken.shape[1:]
    names = tuple(taken) if isinstance(taken, Mapping) else type(taken)
    return (names, *((array.dtype, tuple(array.shape[1:])) for array in _arrays(taken)))


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
        return {name: stack([taken[name] for taken in several]) for name in first}
    return tuple(stack(arrays) for arrays in zip(*several))


def blank(taken: Any) -> Any:
    """Return rows of zeros in the form of some others."""
    if isinstance(taken, numpy.ndarray):
        return numpy.zeros_like(taken)
    if isinstance(taken, Mapping):
        return {name: blank(array) for name, array in taken.items()}
    if isinstance(taken, tuple):
        return tuple(blank(array) for array in taken)
    return torch.zeros_like(taken)


def _arrays(taken: Any) -> Sequence[Any]:
    if isinstance(taken, (numpy.ndarray, torch.Tensor)):
        return (taken,)
    return tuple(taken.values()) if isinstance(taken, Mapping) else tuple(taken)
