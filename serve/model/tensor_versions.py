"""Parameters and buffers that change after they were loaded, found by the version that torch counts for each tensor.

Every write in place raises it, in inference mode too; asking for all of them takes about a microsecond for each tensor.
Only workers import this.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

# What goes round the counter, for example a write through `.data`, is still seen in tensors as small as counters are.
_ELEMENTS = 16
# Up to this size, a buffer that was written is compared: torch before 2 writes the same numbers into some that it
# only reads.
_COPIED_ELEMENTS = 65_536


class _Mark(NamedTuple):
    """What a tensor was; held, so that no other takes its place in memory."""

    tensor: Any
    version: int | None
    elements: str
    copy: Any = None


class Versions:
    """The tensors of a module as they were when this was made."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._published = set(module.state_dict())
        buffers = dict(module.named_buffers())
        self._marks = {
            name: mark._replace(copy=_copy_of(mark.tensor) if name in buffers else None)
            for name, mark in _marks_of(module).items()
        }

    def written(self) -> list[str]:
        """Name the tensors that were written or replaced since.

        What a module keeps beside its weights, a table of sines that grows for example, may be replaced, not written.
        """
        return self._differing(self._published)

    def touched(self) -> list[str]:
        """Name the tensors that were written or replaced since, whatever they are."""
        return self._differing(set(self._marks))

    def _differing(self, may_not_move: set[str]) -> list[str]:
        return sorted(
            name
            for name, mark in _marks_of(self._module).items()
            if name in self._marks and _differ(self._marks[name], mark, name in may_not_move)
        )


def _differ(known: _Mark, now: _Mark, may_not_move: bool) -> bool:
    if _address(known.tensor) != _address(now.tensor):
        return may_not_move
    if known.elements != now.elements:
        return True
    return known.version != now.version and not _is_equal(known.copy, now.tensor)


def _is_equal(copy: Any, tensor: Any) -> bool:
    with contextlib.suppress(Exception):  # one that cannot be compared counts as changed
        return copy is not None and bool(((copy == tensor) | ((copy != copy) & (tensor != tensor))).all())
    return False


def _address(tensor: Any) -> int:
    try:
        return int(tensor.data_ptr())
    except Exception:  # sparse and lazy ones, and some of subclasses, have no memory of their own
        return id(tensor)


def _marks_of(module: Any) -> dict[str, _Mark]:
    return {name: _mark(tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def _mark(tensor: Any) -> _Mark:
    version, elements = None, ""
    with contextlib.suppress(Exception):  # of a subclass that answers nothing; reading other devices takes long
        if tensor.device.type == "cpu":
            elements = elements_of(tensor, _ELEMENTS)
    with contextlib.suppress(Exception):  # one that was made in inference mode counts none
        version = tensor._version
    return _Mark(tensor, version, elements)


def _copy_of(tensor: Any) -> Any:
    with contextlib.suppress(Exception):  # as above
        if tensor.device.type == "cpu" and str(tensor.layout) == "torch.strided" and not tensor.is_quantized:
            return tensor.detach().clone() if tensor.numel() <= _COPIED_ELEMENTS else None
    return None


def elements_of(tensor: Any, most: int) -> str:
    """Return the elements of a small tensor as text, in which NaN is itself; nothing for one that cannot be read."""
    with contextlib.suppress(Exception):  # a lazy one has no elements yet, and Python no type for some numbers
        if str(tensor.layout) == "torch.strided" and not tensor.is_quantized and tensor.numel() <= most:
            return str(tensor.detach().tolist())
    return ""
