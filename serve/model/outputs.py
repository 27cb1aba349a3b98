"""What a module gives, and what a model class makes of it, as lists and numbers for JSON, or as arrays.

Only workers import it. Written for torch 1.12.1 to 2.13."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Callable

import numpy
import torch

from serve.model.answers import OUTPUTS

ARRAYS = (numpy.ndarray, torch.Tensor)
_PLAIN = frozenset((int, float, bool, str, type(None)))


def to_lists(raw: Any) -> object:
    """Turn what a module gave into what JSON can hold."""
    return _map(raw, _to_list)


def _to_list(part: Any) -> object:
    try:
        return part.tolist()
    except (RuntimeError, TypeError):  # sparse, quantized and nested tensors have no lists of their own
        return [_to_list(row) for row in part.unbind()] if part.is_nested else _to_plain(part).tolist()


def _to_plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a tensor as one that NumPy has something for: dense, in its types."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        with torch.inference_mode():  # in which it may have been made: some layouts are written into
            tensor = tensor.to_dense()
    is_unknown = tensor.dtype == torch.bfloat16 or "float8" in str(tensor.dtype)
    return (tensor.float() if is_unknown else tensor).cpu().resolve_conj().resolve_neg().contiguous()


def make_plain(value: Any) -> Any:
    """Make lists and numbers of the arrays and tensors in what a model class has made."""
    if isinstance(value, Mapping):
        return {key: make_plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return value if _PLAIN.issuperset(map(type, value)) else [make_plain(part) for part in value]
    if not isinstance(value, (*ARRAYS, numpy.generic)):
        return value
    found = _to_list(value)
    return make_plain(found) if value.dtype == object else found


def without_graph(raw: Any) -> Any:
    """Return what a module gave without the ways to its gradients, which hold memory and cannot be copied."""
    if isinstance(raw, torch.Tensor):
        return raw.detach()
    if type(raw) is dict:
        return {name: without_graph(part) for name, part in raw.items()}
    if isinstance(raw, tuple) and hasattr(raw, "_fields"):
        return type(raw)(*map(without_graph, raw))
    return type(raw)(map(without_graph, raw)) if type(raw) in (tuple, list) else raw


def _map(raw: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(raw, ARRAYS):
        return change(raw)
    if isinstance(raw, (tuple, list)):
        return [_map(part, change) for part in raw]
    if isinstance(raw, Mapping):
        return {str(key): _map(part, change) for key, part in raw.items()}
    return raw.item() if isinstance(raw, numpy.generic) else raw


def to_arrays(raw: Any) -> dict[str, numpy.ndarray[Any, Any]]:
    """Name arrays `outputs`, `outputs_0` … or as a mapping does, leaving out `None`; raises `ValueError` for others."""
    return {name: _to_array(name, part) for name, part in _named(raw) if part is not None}


def to_host(raw: Any) -> Any:
    """Make arrays of a whole batch at once, in a tenth of the time; what NumPy has nothing for stays a tensor."""

    def convert(part: Any) -> Any:
        try:
            return _to_array("", part)
        except (TypeError, RuntimeError):
            return part
        except ValueError:
            return _to_list(part)

    return _map(raw, convert)


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
    array: numpy.ndarray[Any, Any]
    try:
        array = part.detach().cpu().contiguous().numpy()
    except (RuntimeError, TypeError):
        if part.is_nested:
            raise ValueError(f"{name}: expected rows of one length, found a nested tensor") from None
        array = _to_plain(part).numpy()
    return array


def as_array(name: str, value: Any) -> numpy.ndarray[Any, Any]:
    """Make an array of a part of what a model class has made, in its own type where it has one."""
    if isinstance(value, ARRAYS):
        return _to_array(name, value)
    return numpy.array(value if isinstance(value, numpy.generic) else make_plain(value))
