"""Requests that differ from an example and are like it: other numbers of its range and kind, other texts of its length.

An example of zeros shows nothing of a model that joins the rows of several requests, and two equal requests show
little. Drawn with a fixed seed, so that a trial ends the same way in every worker. Only workers import this.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Callable

import torch

_SEED = 7
# How far a companion may stand out: what looks at all rows is moved by it, whatever its own rows weigh.
_LARGE = 1000.0
_Draw = Callable[[Any], Any]


def vary_inputs(example: object) -> Iterator[object]:
    """Make other requests of one: parts in another order, other texts and numbers.

    Yields:
        Inputs of the same form; a model may refuse any of them.
    """
    drawn = random.Random(_SEED)  # noqa: S311 - nothing secret about it
    yield _change(example, lambda value: value, lambda text: text[::-1])
    yield _change(example, lambda value: drawn.uniform(-1, 1) + 2 * value, _shuffled(drawn))
    yield _change(example, lambda value: value, lambda text: text + text[:1])
    if isinstance(example, (list, tuple)) and example:
        yield [*example[1:], example[0], example[-1]]
        yield [example[-1]]


def stretch(value: Any, axes: Collection[int], depth: int = 0) -> Any:
    """Make inputs longer by one in some dimensions."""
    if not isinstance(value, (list, tuple)):
        return value
    parts = [stretch(part, axes, depth + 1) for part in value]
    return [*parts, parts[-1]] if depth in axes and parts else parts


def _shuffled(drawn: random.Random) -> Callable[[str], str]:
    return lambda text: "".join(drawn.sample(text, len(text)))


def _change(value: Any, number: Callable[[float], float], text: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _change(part, number, text) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_change(part, number, text) for part in value]
    if isinstance(value, float):
        return number(value)
    return text(value) if isinstance(value, str) else value


def vary_arrays(prepared: Any) -> Iterator[Any]:
    """Make other requests of what one gave, with as many rows.

    Yields:
        What a module may take: with rows and their elements in another order, drawn from the range of each array,
        small and large. A model may refuse any of them.
    """
    generator = torch.Generator().manual_seed(_SEED)
    yield _map(prepared, lambda array: _drawn(array, generator, 1.0, 0))
    yield _map(prepared, lambda array: _drawn(array, generator, _LARGE, 0))
    yield _map(prepared, lambda array: _drawn(array, generator, -0.1, 1))
    yield _map(prepared, lambda array: _drawn(array, generator, 1.0, None))
    yield _map(prepared, lambda array: _drawn(array, generator, _LARGE, None))
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

    `None` leaves whole numbers as they are: they may be lengths or places.
    """
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
        return torch.rand(array.shape, generator=generator).to(array.device) < 0.5
    low, high = int(array.min()), int(array.max()) + widen
    return torch.randint(low, high + 1, array.shape, generator=generator).to(array)
