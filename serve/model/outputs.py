"""The door to torch for what goes out: from what a module gives to lists, arrays and the parts of a batch.

Only workers import it. Written for torch 1.12.1 to 2.13.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch

from serve.model.predictor import OUTPUTS


def to_lists(raw: Any) -> object:
    """Turn what a module gave into what JSON can hold."""
    if isinstance(raw, (numpy.ndarray, torch.Tensor)):
        lists: object = raw.tolist()
        return lists
    if isinstance(raw, (tuple, list)):
        return [to_lists(part) for part in raw]
    if isinstance(raw, Mapping):
        return {str(key): to_lists(part) for key, part in raw.items()}
    plain: object = raw
    return plain


def to_arrays(raw: Any) -> dict[str, numpy.ndarray[Any, Any]]:
    """Turn what a module gave into arrays by name.

    Args:
        raw: a tensor, whose name is `outputs`; a tuple or list of tensors, `outputs_0` and so on; a mapping of them.

    Raises:
        ValueError: it is something else.
    """
    return {name: _to_array(name, part) for name, part in _named(raw)}


def plain_to_arrays(outputs: object) -> dict[str, numpy.ndarray[Any, Any]]:
    """Turn outputs that JSON can hold into arrays by name.

    Returns:
        The arrays, texts as objects of type `str`; `outputs` is the name where there is only one.

    Raises:
        ValueError: no array can hold them.
    """
    named = outputs if isinstance(outputs, Mapping) else {OUTPUTS: outputs}
    arrays = {str(name): numpy.array(value) for name, value in named.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiubU":
            raise ValueError(f"{name}: expected numbers, truth values or texts, found {array.dtype}")
    return {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in arrays.items()}


def to_host(raw: Any) -> Any:
    """Make arrays of the tensors of a whole batch at once, which takes a tenth of doing it for each request.

    Returns:
        The same with arrays, except for tensors that NumPy has nothing for.
    """
    if isinstance(raw, torch.Tensor):
        try:
            return _to_array("", raw)
        except (TypeError, RuntimeError):
            return raw
    if isinstance(raw, (tuple, list)):
        return [to_host(part) for part in raw]
    if isinstance(raw, Mapping):
        return {name: to_host(part) for name, part in raw.items()}
    return raw


def split(raw: Any, rows: Sequence[int]) -> list[Any]:
    """Take apart what a module gave for joined requests.

    Args:
        raw: a tensor or array, or a tuple, list or mapping of them, each with the rows of all requests.

    Raises:
        ValueError: it has another number of rows, or is something else.
    """
    if isinstance(raw, (numpy.ndarray, torch.Tensor)):
        if not raw.ndim or raw.shape[0] != sum(rows):
            raise ValueError(f"the outputs: expected {sum(rows)} rows, found the shape {list(raw.shape)}")
        ends = itertools.accumulate(rows)
        return [raw[end - count : end] for end, count in zip(ends, rows)]
    if isinstance(raw, (tuple, list)):
        return list(zip(*(split(part, rows) for part in raw)))
    if isinstance(raw, Mapping):
        parts = {name: split(part, rows) for name, part in raw.items()}
        return [{name: part[place] for name, part in parts.items()} for place in range(len(rows))]
    raise ValueError(f"the outputs: expected tensors, found {type(raw).__name__}")


def epsilon_of(raw: Any) -> float:
    """Return the relative spacing of the coarsest floating-point numbers that a module gave; at least float32's."""
    parts = raw.values() if isinstance(raw, Mapping) else raw if isinstance(raw, (tuple, list)) else ()
    own = torch.finfo(raw.dtype).eps if isinstance(raw, torch.Tensor) and raw.is_floating_point() else 0.0
    return max(float(own), float(torch.finfo(torch.float32).eps), *map(epsilon_of, parts))


def gap(expected: Any, actual: Any) -> float:
    """Tell how far two outputs are from each other.

    Returns:
        The largest difference of two numbers as a share of the largest number of their array, 0 for equal ones;
        infinite for outputs of other forms, or where one is not finite and the other is.
    """
    if isinstance(expected, (numpy.ndarray, torch.Tensor)):
        one, other = (torch.as_tensor(output).detach().cpu() for output in (expected, actual))
        return _gap_of_tensors(one, other) if one.shape == other.shape and one.dtype == other.dtype else math.inf
    if isinstance(expected, Mapping):
        return max((gap(part, actual[name]) for name, part in expected.items()), default=0.0)
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


def _named(raw: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(raw, Mapping):
        return ((str(name), part) for name, part in raw.items())
    if isinstance(raw, (tuple, list)):
        return ((f"{OUTPUTS}_{place}", part) for place, part in enumerate(raw))
    return iter([(OUTPUTS, raw)])


def _to_array(name: str, part: Any) -> numpy.ndarray[Any, Any]:
    if isinstance(part, numpy.ndarray):
        return part
    if not isinstance(part, torch.Tensor):
        raise ValueError(f"{name}: expected a tensor, found {type(part).__name__}")
    tensor = part.float() if part.dtype == torch.bfloat16 else part
    array: numpy.ndarray[Any, Any] = tensor.detach().cpu().contiguous().numpy()
    return array
