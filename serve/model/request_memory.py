"""Memory of a request that its model writes into: found at the trial, remembered in service, and copied only there.

What a module takes is a view of the request's body where that is possible, and what it gives may be its input, a weight
or a buffer of its own. A module that works in place, or gives a buffer that the next call fills anew, would change what
others still look at: another generation that is asked the same, a comparison, an answer that is not yet written. Every
write of torch raises the version of a tensor, inference mode or not; other writes show when the elements are compared.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
import torch

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor

_ENOUGH_S = 1.0


@dataclass
class RequestMemory:
    """What a model was found to write into; each finding stays, and is copied before from then on."""

    requests: bool = False  # the model class changes the lists of a request while it converts them
    inputs: bool = False  # the module writes into what it takes, or keeps it
    taken: bool = False  # the model class converts several requests to the same memory
    raw: bool = False  # later calls write into what the module has given, or may, as it is the same memory
    outputs: bool = False  # the model class writes into what the module has given while it converts that
    gradients: bool = False  # the module computes some while it answers, such as forces; inference mode forbids that

    def note_version(self, placed: Any) -> None:
        """Remember a write into tensors that were made for one run, outside of inference mode."""
        if type(placed) is torch.Tensor:  # the way of most requests
            if placed._version:
                self.inputs = True
        elif isinstance(placed, Mapping):
            for part in placed.values():
                self.note_version(part)

    def find(self, predictor: TorchPredictor, several: Iterable[object]) -> None:
        """Answer requests, of which a model may refuse any, and compare all they share with others before and after."""
        several = list(several)
        self._choose_mode(predictor, several[0])
        until_s = time.monotonic() + _ENOUGH_S
        held: list[tuple[Any, Any, Any, Any]] = []
        places: tuple[set[int], set[int]] = set(), set()
        for inputs in several:
            with contextlib.suppress(Exception):  # inputs that it has nothing for; the warm-up tells of others
                held.append(answer := self._answer(predictor, inputs))
                self.taken |= not places[0].isdisjoint(new := _places_of(answer[0]))
                self.raw |= not places[1].isdisjoint(given := _places_of(answer[2]))
                places = places[0] | new, places[1] | given
            for taken, before, raw, first in held:
                self.inputs |= not is_same(taken, before)
                self.raw |= not is_same(raw, first)
            if time.monotonic() > until_s and len(held) > 1:  # one alone shows no memory that two share
                break

    def _choose_mode(self, predictor: TorchPredictor, inputs: object) -> None:
        """Find whether it runs in inference mode, once it has run outside, where the tables that it keeps are made."""
        self.gradients = True
        if self._runs(predictor, inputs):
            self.gradients = False
            self.gradients = not self._runs(predictor, inputs)
        else:
            self.gradients = False  # the warm-up tells why

    def _runs(self, predictor: TorchPredictor, inputs: object) -> bool:
        with contextlib.suppress(Exception):
            predictor.run(predictor.prepare(own(inputs)))
            return True
        return False

    def _answer(self, predictor: TorchPredictor, inputs: object) -> tuple[Any, Any, Any, Any]:
        given = own(inputs)
        try:
            taken = predictor.prepare(given)
        finally:
            self.requests |= not is_same(given, inputs)
        before = own(taken)
        try:
            raw = predictor.run(taken)
        finally:
            self.inputs |= not is_same(taken, before)
        first, converted = own(raw), own(raw)
        predictor.postprocess(converted)
        self.outputs |= not is_same(converted, first)
        return taken, before, raw, first


def _places_of(value: Any) -> set[int]:
    """Return where in memory arrays and tensors begin."""
    if isinstance(value, torch.Tensor):
        return {value.data_ptr()} - {0}
    if isinstance(value, numpy.ndarray):
        return {value.ctypes.data} if value.size else set()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return set().union(*map(_places_of, parts))


def own(value: Any) -> Any:
    """Copy the memory of arrays and tensors, wherever they are; what cannot be copied stays itself."""
    if value is None or isinstance(value, (str, bytes, int, float)):
        return value
    if isinstance(value, torch.Tensor):
        copied = value.detach().clone()
        return copied.requires_grad_() if value.requires_grad else copied
    if isinstance(value, numpy.ndarray):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)([own(part) for part in value])
    if type(value) is dict:
        return {name: own(part) for name, part in value.items()}
    with contextlib.suppress(Exception):  # whatever its class says
        return copy.deepcopy(value)
    return value


def is_same(one: Any, other: Any) -> bool:
    """Whether two values have the same form and elements, NaN being itself; of unknown classes nothing is known."""
    for kind in (torch.Tensor, numpy.ndarray):
        if isinstance(one, kind) and isinstance(other, kind):
            if one.shape != other.shape or one.dtype != other.dtype:
                return False
            with contextlib.suppress(Exception):  # kinds of tensors that cannot be compared
                return bool(((one == other) | ((one != one) & (other != other))).all())
            return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    return not isinstance(one, (str, bytes, int, float)) or one == other or one != one
