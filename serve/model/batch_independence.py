"""The trial that shows whether requests may share a run: each answer in company must be what it is alone.

Each request of the trial is joined with copies of itself, which shows what number and place
of rows do to an answer, and with requests that differ from it, in both orders and several sizes. In runs of equal shape
the same sums are made in the same order, so that what an answer owes to the others' numbers stands out from rounding.
Only workers import this.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from serve.checkpoint.golden import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE
from serve.model import example_variants, outputs
from serve.model.golden_check import as_json, differences
from serve.model.predictor import Predictor

_SIZES = (3, 5)
_MOST_COMPANIONS = 12
# With a slow model the trial ends early: after so many companions and this long.
_LEAST_COMPANIONS, _ENOUGH_S = 4, 5.0
# What rounding may do: between runs of other shapes, and between runs of the same.
_LOOSE_EPSILONS, _STRICT_EPSILONS, _STRICT, _NOISE = 16, 2, 1e-5, 8


class DependentError(Exception):
    """An answer depends on who else asks."""


def why_alone(predictor: Predictor, prepared: Any, others: Iterable[Any], most_rows: int) -> str:
    """Find out why requests may not share one run.

    Returns:
        The reason; nothing where they may.
    """
    try:
        _Trial(predictor, prepared, others, most_rows).run()
    except DependentError as error:
        return str(error)
    except Exception as error:  # whatever it is that it cannot do
        return f"joined requests fail: {type(error).__name__}: {str(error)[:200]}"
    return ""


def tolerance(predictor: Predictor, raw: Any) -> float:
    """Return how far an answer in company may be from the one alone, as a share of its largest number."""
    return max(RELATIVE_TOLERANCE, _LOOSE_EPSILONS * predictor.epsilon_of(raw))


def compare_alone(predictor: Predictor, prepared: Any, shared: Any, rows: Sequence[int], place: int) -> float:
    """Answer a request alone, and compare; what it takes and returns is documented in `serve.model.predictor`."""
    raw = predictor.run(predictor.stack([prepared]))
    alone = predictor.split(raw, [rows[place]])[0]
    found = outputs.gap(alone, shared)
    if found <= tolerance(predictor, raw):
        return 0.0
    if math.isinf(found) and len(set(rows)) == 1:
        # A whole number or a label may turn with the last digit: then it does so beside copies of itself, too.
        copies = predictor.split(predictor.run(predictor.stack([prepared] * len(rows))), rows)
        found = found if outputs.gap(copies[place], shared) else 0.0
    return found


class _Trial:
    """One model, its example and what is asked beside it."""

    def __init__(self, predictor: Predictor, prepared: Any, others: Iterable[Any], most_rows: int) -> None:
        self._predictor, self._prepared = predictor, prepared
        rows = predictor.count_rows(prepared)
        if not rows:
            raise DependentError("what its module takes are not arrays with one row for each of the inputs")
        most = max(2, most_rows // rows)
        self._sizes = sorted({2, *(size for size in _SIZES if size < most), most})
        self._others = itertools.chain(example_variants.vary_arrays(prepared), others)
        raw = predictor.run(predictor.stack([prepared]))
        self._loose, self._epsilon, self._noise = tolerance(predictor, raw), predictor.epsilon_of(raw), 0.0
        self._until_s = time.monotonic() + _ENOUGH_S
        # By the ids of requests, which `_asked` holds.
        self._asked, self._alone = [prepared], {id(prepared): self._together([prepared])[0]}
        self._copies: dict[tuple[int, int], Sequence[Any]] = {}

    def run(self) -> None:
        """Raise `DependentError`, or what the model raises, where an answer in company is another one."""
        for size in self._sizes:
            if size == self._sizes[0] or not self._is_late:
                self._join_copies(self._prepared, size)
        for other in self._others:
            if len(self._asked) > (_LEAST_COMPANIONS if self._is_late else _MOST_COMPANIONS):
                break
            if self._can_answer(other):
                self._join(self._prepared, other)
                self._join(other, self._prepared)
        if len(self._asked) == 1:
            raise DependentError("no inputs beside example_inputs could be answered; give some that differ by row")
        for size in self._sizes[1:]:
            crowd = [self._asked[(place + size) % len(self._asked)] for place in range(size)]
            if not self._is_late:
                self._require(crowd, self._together(crowd), f"{size} requests")
        self._require_outputs(self._asked[1])

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self._until_s

    def _can_answer(self, other: Any) -> bool:
        predictor = self._predictor
        try:
            if predictor.batch_key(other) != predictor.batch_key(self._prepared) or not predictor.count_rows(other):
                return False
            if not outputs.gap(predictor.stack([self._prepared]), predictor.stack([other])):
                return False
            self._alone[id(other)] = self._together([other])[0]
        except Exception:  # values that the model has nothing for
            return False
        self._asked.append(other)
        return True

    def _together(self, several: Sequence[Any]) -> Sequence[Any]:
        # Joined even where there is only one: a module may write into what it takes.
        predictor = self._predictor
        raw = predictor.run(predictor.stack(several))
        return predictor.split(raw, [predictor.count_rows(one) for one in several])

    def _require(self, several: Sequence[Any], parts: Sequence[Any], what: str) -> None:
        for place, (one, part) in enumerate(zip(several, parts)):
            if not outputs.gap(self._alone[id(one)], part) <= self._loose:
                raise DependentError(f"of {what} in one run, that at place {place} is answered differently from alone")

    def _join_copies(self, one: Any, size: int) -> Sequence[Any]:
        """Join a request with copies of itself."""
        key = id(one), size
        if key not in self._copies:
            parts = self._copies[key] = self._together([one] * size)
            self._require([one] * size, parts, f"{size} equal requests")
            self._noise = max(self._noise, *(outputs.gap(self._alone[id(one)], part) for part in parts))
        return self._copies[key]

    def _join(self, first: Any, second: Any) -> None:
        """Join two requests, and compare each with what it was in the same place beside itself."""
        several, parts = (first, second), self._together([first, second])
        self._require(several, parts, "two requests")
        if self._predictor.count_rows(first) != self._predictor.count_rows(second):
            return
        expected = [self._join_copies(one, 2)[place] for place, one in enumerate(several)]
        limit = min(self._loose, max(_STRICT, _NOISE * self._noise, _STRICT_EPSILONS * self._epsilon))
        if not max(map(outputs.gap, expected, parts)) <= limit:
            raise DependentError("the answer to one of two requests in one run depends on the numbers of the other")

    def _require_outputs(self, other: Any) -> None:
        """Compare what clients would read."""
        predictor, several = self._predictor, [self._prepared, other]
        for joined in (several, several[::-1]):
            for one, part in zip(joined, self._together(joined)):
                alone, shared = predictor.postprocess(self._alone[id(one)]), predictor.postprocess(part)
                found = differences(as_json(alone), as_json(shared), self._loose, ABSOLUTE_TOLERANCE + self._loose)
                difference = next(found, None)
                if difference is not None:
                    raise DependentError(f"in one run with another request: outputs{difference}")
