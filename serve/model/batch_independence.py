"""The trial that shows whether requests may share a run: each answer in company must be what it is alone.

Each request of the trial is joined with copies of itself, which shows what number and place of rows do to an answer,
and with requests that differ from it, in both orders and several sizes. In runs of equal shape the same sums are made
in the same order, so that what an answer owes to the others' numbers stands out from rounding. The others are other
numbers of the example's range and kind, other texts of its length, drawn with a fixed seed, so that a trial ends the
same way in every worker. Only workers import this."""

from __future__ import annotations

import functools
import itertools
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

import numpy
import torch

from serve.checkpoint.manifest import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE
from serve.model.answers import as_json, differences

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor

_SIZES = (3, 5)
_MOST_COMPANIONS = 12
_LEAST_COMPANIONS, _ENOUGH_S = 4, 5.0  # with a slow model the trial ends early: after so many companions and this long
# What rounding may do: between runs of other shapes, and between runs of the same.
_LOOSE_EPSILONS, _STRICT_EPSILONS, _STRICT, _NOISE = 16, 2, 1e-5, 8


class DependentError(Exception):
    """An answer depends on who else asks."""


def why_alone(predictor: TorchPredictor, prepared: Any, others: Iterable[Any], most_rows: int) -> str:
    """Find out why requests may not share one run. Returns the reason; nothing where they may."""
    try:
        _Trial(predictor, prepared, others, most_rows).run()
    except DependentError as error:
        return str(error)
    except Exception as error:  # whatever it is that it cannot do
        return f"joined requests fail: {type(error).__name__}: {str(error)[:200]}"
    return ""


def tolerance(predictor: TorchPredictor, raw: Any) -> float:
    """Return how far an answer in company may be from the one alone, as a share of its largest number."""
    return max(RELATIVE_TOLERANCE, _LOOSE_EPSILONS * predictor.epsilon_of(raw))


def compare_alone(predictor: TorchPredictor, prepared: Any, shared: Any, rows: Sequence[int], place: int) -> float:
    """Answer a request alone, and compare; return the `gap` to its answer in company, 0 where only rounding differs."""
    raw = predictor.run(predictor.stack([prepared]))
    alone = predictor.split(raw, [rows[place]])[0]
    found = gap(alone, shared)
    if found <= tolerance(predictor, raw):
        return 0.0
    if math.isinf(found) and len(set(rows)) == 1:
        # A whole number or a label may turn with the last digit: then it does so beside copies of itself, too.
        copies = predictor.split(predictor.run(predictor.stack([prepared] * len(rows))), rows)
        found = found if gap(copies[place], shared) else 0.0
    return found


class _Trial:
    """One model, its example and what is asked beside it."""

    def __init__(self, predictor: TorchPredictor, prepared: Any, others: Iterable[Any], most_rows: int) -> None:
        self._predictor, self._prepared = predictor, prepared
        rows = predictor.count_rows(prepared)
        if not rows:
            raise DependentError("what its module takes are not arrays with one row for each of the inputs")
        most = max(2, most_rows // rows)
        self._sizes = sorted({2, *(size for size in _SIZES if size < most), most})
        self._others = itertools.chain(vary_arrays(prepared), others)
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
        # Compare what clients would read.
        predictor, several = self._predictor, [self._prepared, self._asked[1]]
        for joined in (several, several[::-1]):
            for one, part in zip(joined, self._together(joined)):
                alone, shared = predictor.postprocess(self._alone[id(one)]), predictor.postprocess(part)
                found = differences(as_json(alone), as_json(shared), self._loose, ABSOLUTE_TOLERANCE + self._loose)
                difference = next(found, None)
                if difference is not None:
                    raise DependentError(f"in one run with another request: outputs{difference}")

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self._until_s

    def _can_answer(self, other: Any) -> bool:
        predictor = self._predictor
        try:
            if predictor.batch_key(other) != predictor.batch_key(self._prepared) or not predictor.count_rows(other):
                return False
            if not gap(predictor.stack([self._prepared]), predictor.stack([other])):
                return False
            self._alone[id(other)] = self._together([other])[0]
        except Exception:  # values that the model has nothing for
            return False
        self._asked.append(other)
        return True

    def _together(self, several: Sequence[Any]) -> Sequence[Any]:
        predictor = self._predictor
        raw = predictor.run(predictor.stack(several))  # joined even where there is only one: it may write into that
        return predictor.split(raw, [predictor.count_rows(one) for one in several])

    def _require(self, several: Sequence[Any], parts: Sequence[Any], what: str) -> None:
        for place, (one, part) in enumerate(zip(several, parts)):
            if not gap(self._alone[id(one)], part) <= self._loose:
                raise DependentError(f"of {what} in one run, that at place {place} is answered differently from alone")

    def _join_copies(self, one: Any, size: int) -> Sequence[Any]:
        """Join a request with copies of itself."""
        key = id(one), size
        if key not in self._copies:
            parts = self._copies[key] = self._together([one] * size)
            self._require([one] * size, parts, f"{size} equal requests")
            self._noise = max(self._noise, *(gap(self._alone[id(one)], part) for part in parts))
        return self._copies[key]

    def _join(self, first: Any, second: Any) -> None:
        """Join two requests, and compare each with what it was in the same place beside itself."""
        several, parts = (first, second), self._together([first, second])
        self._require(several, parts, "two requests")
        if self._predictor.count_rows(first) != self._predictor.count_rows(second):
            return
        expected = [self._join_copies(one, 2)[place] for place, one in enumerate(several)]
        limit = min(self._loose, max(_STRICT, _NOISE * self._noise, _STRICT_EPSILONS * self._epsilon))
        if not max(map(gap, expected, parts)) <= limit:
            raise DependentError("the answer to one of two requests in one run depends on the numbers of the other")


def first_difference(expected: object, actual: object) -> str:
    """Return the first line of `differences` beyond rounding, or nothing."""
    return next(differences(expected, actual, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE), "")


def gap(expected: Any, actual: Any) -> float:
    """Return the largest difference of two outputs, as a share of the largest number; infinite for another form."""
    if isinstance(expected, (numpy.ndarray, torch.Tensor)):
        one, other = (torch.as_tensor(output).detach().cpu() for output in (expected, actual))
        return _gap_of_tensors(one, other) if one.shape == other.shape and one.dtype == other.dtype else math.inf
    if isinstance(expected, Mapping):
        return max((gap(part, actual[name]) for name, part in expected.items()), default=0.0)
    if expected is None:
        return 0.0 if actual is None else math.inf
    return max((gap(one, other) for one, other in zip(expected, actual)), default=0.0)


def _gap_of_tensors(one: Any, other: Any) -> float:
    if torch.equal(one, other):
        return 0.0
    if not (one.is_floating_point() or one.is_complex()):
        return math.inf
    wide = torch.complex128 if one.is_complex() else torch.float64
    one, other = one.to(wide), other.to(wide)
    is_finite = torch.isfinite(one)
    if not torch.equal(is_finite, torch.isfinite(other)):
        return math.inf
    one, other = one[is_finite], other[is_finite]
    largest, difference = (float(part.abs().max()) if part.numel() else 0.0 for part in (one, one - other))
    return difference / largest if largest else (math.inf if difference else 0.0)


_SEED = 7
_LARGE = 1000.0  # how far a companion may stand out: what looks at all rows is moved by it, whatever they weigh
_Draw = Callable[[Any], Any]


def vary_inputs(example: object) -> Iterator[object]:
    """Make other requests of one: parts in another order, other texts and numbers. A model may refuse any of them."""
    drawn = random.Random(_SEED)  # noqa: S311 - nothing secret about it
    yield _change(example, text=lambda text: text[::-1])
    mixed = functools.partial(_change, text=lambda text: "".join(drawn.sample(text, len(text))))
    yield mixed(example, number=lambda value: drawn.uniform(-1, 1) + 2 * value)
    yield _change(example, text=lambda text: text + text[:1])
    yield _turned(example)
    if isinstance(example, (list, tuple)) and example:
        yield [*example[1:], example[0], example[-1]]
        yield [example[-1]]


def _turned(value: Any) -> Any:
    """Turn the innermost lists round: whole numbers stay those that the model knows."""
    if isinstance(value, Mapping):
        return {key: _turned(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        is_innermost = not any(isinstance(part, (list, tuple)) for part in value)
        return value[::-1] if is_innermost else [_turned(part) for part in value]
    return value


def _change(value: Any, text: Callable[[str], str], number: Callable[[float], float] = lambda value: value) -> Any:
    if isinstance(value, Mapping):
        return {key: _change(part, text, number) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_change(part, text, number) for part in value]
    if isinstance(value, float):
        return number(value)
    return text(value) if isinstance(value, str) else value


def vary_arrays(prepared: Any) -> Iterator[Any]:
    """Make requests of as many rows: reordered, or drawn around each array's range. A model may refuse any of them."""
    generator = torch.Generator().manual_seed(_SEED)
    for scale, widen in ((1.0, 0), (_LARGE, 0), (-0.1, 1), (0.1, -1), (1.0, None), (_LARGE, None)):
        yield _map(prepared, functools.partial(_drawn, generator=generator, scale=scale, widen=widen))
    yield _map(prepared, lambda array: array.flip(0) if array.dim() < 2 else array.flip(0).roll(1, 1))
    yield _map(prepared, lambda array: array * 2 if array.is_floating_point() else array)


def _map(prepared: Any, change: _Draw) -> Any:
    if isinstance(prepared, Mapping):
        return {name: _map(part, change) for name, part in prepared.items()}
    if isinstance(prepared, tuple):
        return tuple(_map(part, change) for part in prepared)
    if isinstance(prepared, torch.Tensor):
        return change(prepared)
    return change(torch.from_numpy(prepared.copy())).numpy()


def _drawn(array: Any, generator: torch.Generator, scale: float, widen: int | None) -> Any:
    """Draw elements from an array's range: fractions spread around it by a scale, whole numbers up to `widen` beyond.
    Where that is not 0 they are others than the array's. `None` leaves them as they are: they may be lengths or
    places."""
    if not array.numel() or array.is_complex():
        return array
    if array.is_floating_point():
        low, high = (float(bound) for bound in array.float().aminmax())
        spread = max(high - low, abs(high), 1.0)
        drawn = torch.rand(array.shape, generator=generator) * 2 - 1
        return ((low + high) / 2 + spread * scale * drawn).to(array)
    if widen is None:
        return array
    if array.dtype == torch.bool:
        drawn = torch.rand(array.shape, generator=generator).to(array.device) < 0.5
        return ~array if torch.equal(drawn, array) else drawn
    low, high = int(array.min()), int(array.max())
    low, high = min(low, max(low + widen, 0)), max(high, high + widen)
    drawn = torch.randint(low, high + 1, array.shape, generator=generator).to(array)
    return array + widen if torch.equal(drawn, array) else drawn
