"""Tensors of a module that lie in the same memory: one parameter under several names, and views of one another.

A file may hold all of their names, or one of them: safetensors' `save_model` and every `save_pretrained` leave the
others out. After a load they lie in one memory again, also where the module keeps the tensors that were read: each
object that the module had gets its new values, so that whatever else refers to it (a list, an attribute) follows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from serve.errors import CheckpointError

# What torch raises for tensors that have no memory of their own: sparse ones, lazy ones, those of subclasses.
_WITHOUT_STORAGE = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)


def storage_of(tensor: Any) -> Any:
    """Return the storage of a tensor."""
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()


@dataclass(frozen=True)
class _Place:
    """Where a module keeps a tensor: its dotted name, its owner's attribute, and the owner's mapping that has it."""

    name: str
    owner: Any
    key: str
    registry: Any
    tensor: Any

    @property
    def now(self) -> Any:
        """What lies there by now."""
        return self.registry.get(self.key)

    def put(self, tensor: Any) -> None:
        # Not into the mapping: recurrent layers keep a list of their weights that follows their attributes.
        setattr(self.owner, self.key, tensor)

    @property
    def view(self) -> tuple[object, ...]:
        tensor = self.tensor
        return tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its memory, in any order of its dimensions."""
        tensor, expected = self.tensor, 1
        for stride, length in sorted(zip(tensor.stride(), tensor.shape)):
            if length != 1 and stride != expected:
                return False
            expected *= length
        return bool(tensor.numel() * tensor.element_size() == storage_of(tensor).nbytes())

    def is_tied_to(self, other: _Place) -> bool:
        """Whether both are one tensor under two names."""
        return self.tensor is other.tensor or self.view == other.view

    def holds(self, other: _Place) -> bool:
        """Whether the values of another one in the same memory can be read from this one's."""
        return self.is_tied_to(other) or (self.tensor.dtype == other.tensor.dtype and self.is_whole)


class TiedWeights:
    """How the tensors of a module lie in memory before it gets its weights."""

    def __init__(self, module: Any) -> None:
        groups: dict[object, list[_Place]] = {}
        for place in _places_of(module):
            groups.setdefault(_memory_of(place.tensor), []).append(place)
        self._groups = list(groups.values())

    def sources(self) -> dict[str, tuple[str, ...]]:
        """Tell for each name that shares its memory from which other names its values can be read."""
        return {
            place.name: tuple(other.name for other in group if other is not place and other.holds(place))
            for group in self._groups
            if len(group) > 1
            for place in group
        }

    def complete(self, state: dict[str, Any], names: Collection[str]) -> None:
        """Add the names that a file leaves out, from those that it holds of the same memory.

        Raises:
            CheckpointError: two names of one tensor have different values.
        """
        for group in self._groups:
            held = [place for place in group if place.name in state]
            for place in group:
                if place.name in names and place.name not in state:
                    source = next((other for other in held if other.holds(place)), None)
                    if source is not None:
                        state[place.name] = _view(state[source.name], source, place)
            _require_one(held, state)

    def restore(self) -> None:
        """Make the module's own tensors hold what it was given in their stead, and share memory as they did."""
        for group in self._groups:
            given = [place for place in group if place.now is not place.tensor]
            if given and all(place.is_tied_to(group[0]) for place in group):
                _share(group, given[0].now)
                continue
            # Views of one another: the values go into the module's own memory, as without assignment.
            for place in given:
                if place.now.device == place.tensor.device:
                    place.tensor.data.copy_(place.now)
                    place.put(place.tensor)


def _places_of(module: Any) -> Iterator[_Place]:
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for registry in (owner._parameters, owner._buffers, vars(owner)):
            for key, tensor in list(registry.items()):
                if isinstance(tensor, torch.Tensor):
                    yield _Place(f"{prefix}.{key}" if prefix else key, owner, key, registry, tensor)


def _memory_of(tensor: Any) -> object:
    with contextlib.suppress(*_WITHOUT_STORAGE):
        address = storage_of(tensor).data_ptr()
        if address:
            return str(tensor.device), address
    return id(tensor)  # has none, as a tensor of the device `meta` or one without elements


def _view(source: Any, one: _Place, other: _Place) -> Any:
    if one.is_tied_to(other):
        return source
    whole = source.contiguous()
    if not one.tensor.is_contiguous():
        whole = torch.empty_strided(source.shape, one.tensor.stride(), dtype=source.dtype).copy_(source)
    wanted = other.tensor
    return whole.as_strided(wanted.shape, wanted.stride(), whole.storage_offset() + wanted.storage_offset())


def _share(group: list[_Place], given: Any) -> None:
    # A tensor that has no memory, as one of the device `meta`, cannot be given any: then what was given stays.
    with contextlib.suppress(RuntimeError, TypeError):
        for place in group:
            place.tensor.data = given.data
        for place in group:
            place.put(place.tensor)
        return
    for place in group:
        place.put(given)


def _require_one(held: list[_Place], state: Mapping[str, Any]) -> None:
    for place in held[1:]:
        first = held[0]
        if place.is_tied_to(first) and not _are_equal(state[first.name], state[place.name]):
            raise CheckpointError(
                "architecture",
                f"{place.name}: expected the values of {first.name}, its other name in the module, found others",
                hint="save what the module's own state_dict() gives, or untie them in the model class",
            )


def _are_equal(one: Any, other: Any) -> bool:
    if one.data_ptr() == other.data_ptr():
        return True
    # By their bytes: torch compares few of the types of eight bits.
    first, second = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return bool(first.equal(second))
