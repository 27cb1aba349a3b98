"""Checks of one answer while its model is on trial: finite, in the declared range or set, healthy by its own word.

What a model class may declare of its answers is documented in `docs/reference/model-class.md`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Callable, NamedTuple

import numpy

from serve.rollout.decision import FINITE, RANGE, UNHEALTHY

Fault = tuple[str, str]


class Declared(NamedTuple):
    """What a model class declares of its answers."""

    range: tuple[float, float] | None = None
    values: Collection[object] | None = None
    healthy: Callable[[Any, Any], object] | None = None
    agree: Callable[[Any, Any], object] | None = None


NOTHING = Declared()
NOT_FINITE: Fault = (FINITE, "found NaN or an infinity")


def is_finite(array: Any) -> bool:
    """Whether all numbers of an array are finite."""
    if array.dtype.kind not in "fc":
        return True
    # A tenth of the time of isfinite; where squares overflow, that decides.
    return math.isfinite(abs(numpy.vdot(array, array))) or bool(numpy.isfinite(array).all())


def find_fault(answer: object, declared: Declared) -> Fault | None:
    """Find what is wrong with an answer in arrays or plain values: the signal, and the reason in words."""
    for leaf in _leaves(answer):
        if isinstance(leaf, numpy.ndarray):
            fault = _check_array(leaf, declared)
        elif isinstance(leaf, float) and not math.isfinite(leaf):
            fault = FINITE, f"found {leaf}"
        else:
            fault = _check_number(leaf, leaf, declared) or _check_values([leaf], declared)
        if fault is not None:
            return fault
    return None


def ask_healthy(declared: Declared, prepared: object, outputs: object) -> Fault | None:
    """Ask the model class."""
    if declared.healthy is None:
        return None
    try:
        verdict = declared.healthy(prepared, outputs)
    except Exception as error:  # the user's code may raise anything
        return UNHEALTHY, f"healthy() failed: {error!r}"
    if verdict is False or (isinstance(verdict, str) and verdict):
        return UNHEALTHY, str(verdict or "healthy() returned False")
    return None


def _check_array(array: Any, declared: Declared) -> Fault | None:
    if not is_finite(array):
        return NOT_FINITE
    if declared.range is not None and array.size and array.dtype.kind in "fiu":
        fault = _check_number(array.min(), array.max(), declared)
        if fault is not None:
            return fault
    if declared.values is None or array.dtype.kind not in "iuUO":
        return None
    return _check_values(numpy.unique(array).tolist(), declared)


def _check_number(least: Any, most: Any, declared: Declared) -> Fault | None:
    if declared.range is None or isinstance(least, (bool, str)) or least is None:
        return None
    low, high = declared.range
    return None if low <= least and most <= high else (RANGE, f"found {least} to {most}, declared {low} to {high}")


def _check_values(leaves: Collection[object], declared: Declared) -> Fault | None:
    if declared.values is None:
        return None
    others = [leaf for leaf in leaves if type(leaf) in (int, str) and leaf not in declared.values]
    return (RANGE, f"found {others[0]!r}, which is not declared") if others else None


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
