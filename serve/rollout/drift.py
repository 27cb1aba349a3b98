"""Drift: what requests ask and what is answered, by generation, in sketches of fixed size that add up over workers.

A sketch counts numbers by sign and magnitude, four buckets to each doubling, beside their sum and sum of squares; what
answers choose is counted by class. Two generations are compared by the population stability index over tenths of the
older one: below 0.1 is noise, above 0.25 another population. All of it is pure."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

INPUTS, ANSWERS, CLASSES = KINDS = "inputs", "answers", "classes"
_PER_DOUBLING, _LEAST = 4, -16  # from 2 to the power of -16 to that of 16; what is beyond is in the outermost buckets
_MAGNITUDES = 2 * -_LEAST * _PER_DOUBLING
BUCKETS = 2 * _MAGNITUDES + 1
CLASS_COUNT = 64  # one more for all others
_MOST_NUMBERS = 1024  # of one array; of a longer one every so many
_MOST_COMPARED = 2**20  # numbers, for their classes
_LARGEST = 1e100
_FEWEST = 200
_PARTS, _SHARES = 10, (0.01, 0.5, 0.99)


class Sketch(NamedTuple):
    """Numbers: their sum, sum of squares, and counts by bucket."""

    total: float
    squares: float
    counts: Sequence[int]


@dataclass(frozen=True)
class Spread:
    """A sketch in words that people know."""

    count: int
    mean: float
    deviation: float
    p01: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Drift:
    """One generation beside the one before. `scores`: by kind, where both have seen enough."""

    generation: int
    before: int
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    classes: Mapping[int, float] = field(default_factory=dict)  # the share of each class; 63 stands for those above too
    scores: Mapping[str, float] = field(default_factory=dict)


def sketch(value: object) -> tuple[float, float, Any]:
    """Sketch what a module takes or gives: arrays, tensors, and what is made of them; the counts as an array."""
    import numpy

    found = [array.reshape(-1)[:: 1 + array.size // _MOST_NUMBERS].astype(float) for array in _arrays(value)]
    numbers = numpy.concatenate([*found, numpy.empty(0)])
    numbers = numbers[numpy.isfinite(numbers)].clip(-_LARGEST, _LARGEST)
    sizes = numpy.log2(numpy.maximum(abs(numbers), 2.0**_LEAST)) - _LEAST
    signed = numpy.sign(numbers) * (1 + numpy.minimum(sizes * _PER_DOUBLING, _MAGNITUDES - 1).astype(int))
    counts = numpy.bincount(signed.astype(int) + _MAGNITUDES, minlength=BUCKETS)
    return float(numbers.sum()), float(numbers @ numbers), counts


def count_classes(value: object) -> Any:
    """Count what is chosen: where the largest number of each row is, or the whole numbers that are given."""
    import numpy

    for array in _arrays(value):
        if array.ndim > 1 and array.shape[-1] > 1 and array.dtype.kind == "f":
            rows = array.reshape(-1, array.shape[-1])
            array = rows[: 1 + _MOST_COMPARED // array.shape[-1]].argmax(-1)
        if array.dtype.kind in "iu" and array.size and array.min() >= 0:
            chosen = numpy.minimum(array.reshape(-1)[:_MOST_NUMBERS], CLASS_COUNT - 1)
            return numpy.bincount(chosen.astype(int), minlength=CLASS_COUNT)
    return numpy.zeros(CLASS_COUNT, int)


def _arrays(value: Any) -> Iterator[Any]:
    import numpy

    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _arrays(part)
    elif hasattr(value, "detach"):  # a tensor, without importing torch
        first = value.detach()[:_MOST_NUMBERS] if value.ndim else value.detach()
        yield (first.float() if first.is_floating_point() else first).cpu().numpy()
    elif isinstance(value, numpy.ndarray) and value.dtype.kind in "fiu":
        yield value


def describe(generation: int, before: int, now: Mapping[str, Sketch], then: Mapping[str, Sketch]) -> Drift:
    """Compare the sketches of two generations, by kind."""
    spreads = {kind: spread(now[kind]) for kind in (INPUTS, ANSWERS) if any(now[kind].counts)}
    chosen = now[CLASSES].counts
    classes = {place: count / sum(chosen) for place, count in enumerate(chosen) if count}
    scores = {
        kind: round(stability_index(now[kind].counts, then[kind].counts), 4)
        for kind in KINDS
        if before and min(sum(now[kind].counts), sum(then[kind].counts)) >= _FEWEST
    }
    return Drift(generation, before, spreads, classes, scores)


def spread(of: Sketch) -> Spread:
    """Sum a sketch up; its quantiles are within a tenth of what they state, between 1/65,536 and 65,536."""
    count = sum(of.counts)
    mean = of.total / count
    deviation = math.sqrt(max(0.0, of.squares / count - mean * mean))
    return Spread(count, *(float(f"{one:.6g}") for one in (mean, deviation, *(_quantile(of, at) for at in _SHARES))))


def _quantile(of: Sketch, share: float) -> float:
    signed = bisect_left([*itertools.accumulate(of.counts)], share * sum(of.counts)) - _MAGNITUDES
    size = 2 ** ((abs(signed) - 0.5) / _PER_DOUBLING + _LEAST)
    return math.copysign(size, signed) if signed else 0.0


def stability_index(now: Sequence[int], then: Sequence[int]) -> float:
    """Return how far two histograms over the same buckets are apart; 0 where they are equal."""
    total, seen = sum(then), 0
    parts: dict[int, tuple[int, int]] = {}
    for new, old in zip(now, then):
        # The tenth in which the middle of the bucket lies; what the older one has never seen joins its neighbour.
        part = min(int(_PARTS * (seen + old / 2) / total), _PARTS - 1)
        seen += old
        known = parts.get(part, (0, 0))
        parts[part] = known[0] + new, known[1] + old
    shares = [((a + 0.5) / sum(now), (b + 0.5) / total) for a, b in parts.values()]
    return math.fsum((new - old) * math.log(new / old) for new, old in shares)
