"""The door to torch for weights that are in memory, to compare, attach, tie and free them. Only workers import it.

Tensors of a module may lie in the same memory: one parameter under several names, and views of one another. A file may
hold all of their names, or one of them: safetensors' `save_model` and every `save_pretrained` leave the others out.
After a load they lie in one memory again, also where the module keeps the tensors that were read: each object that the
module had gets its new values, so that whatever else refers to it (a list, an attribute) follows.

Written for torch 1.12.1 to 2.13; what a version lacks is asked of torch itself, not of its version number."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from serve.checkpoint.formats import EXTRA, TensorSpec
from serve.errors import CheckpointError
from serve.system.resources import Available

# Source: the safetensors format description, and the names that safetensors 0.8 gives to types of torch. A torch that
# lacks a type has no tensor of it.
_NAMES = {
    **{f"F{bits}": f"float{bits}" for bits in (64, 32, 16)},
    **{f"I{bits}": f"int{bits}" for bits in (64, 32, 16, 8)},
    **{f"U{bits}": f"uint{bits}" for bits in (64, 32, 16, 8)},
    "BF16": "bfloat16",
    "C64": "complex64",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}
_SAFETENSORS_NAMES = {getattr(torch, dtype): name for name, dtype in _NAMES.items() if hasattr(torch, dtype)}
_PACKED = "F4"  # two numbers in an element of torch; safetensors counts the numbers
# Bounds the temporary memory of the finite check; what is larger, glibc keeps in the thread's arena (measured: 48 MB).
_CHECK_ELEMENTS = 1024 * 1024
_LARGE_BYTES = 1024 * 1024  # unmapping less than this is quick

State = Mapping[str, Any]


def is_module(thing: object) -> bool:
    """Whether something is a `torch.nn.Module`."""
    return isinstance(thing, torch.nn.Module)


def is_tensor(thing: object) -> bool:
    """Whether something is a `torch.Tensor`."""
    return isinstance(thing, torch.Tensor)


def is_extra(name: str) -> bool:
    """Whether a name may stand for extra state or a quantised module's packed weights, which are no tensors."""
    return name.rpartition(".")[2] == "_extra_state" or "_packed_params" in name


def is_lazy(module: Any) -> bool:
    """Whether a module has tensors whose shapes its first input tells."""
    return any(torch.nn.parameter.is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers()))


unrecorded = torch.no_grad  # the context in which a module may make weights of its own that will be replaced


def interface_of(state: State) -> dict[str, TensorSpec]:
    """Return names, dtypes and shapes of a state dict; what is not a tensor has the dtype `EXTRA`."""
    found = {}
    for name, tensor in state.items():
        dtype, shape = EXTRA, ()
        if is_tensor(tensor):
            dtype, shape = _SAFETENSORS_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)
        if dtype == _PACKED and shape:
            shape = (*shape[:-1], 2 * shape[-1])
        found[name] = TensorSpec(dtype, shape)
    return found


def require_finite(state: State, module: Any) -> None:
    """Refuse weights that can only give useless answers. A buffer may hold infinities, as the mask of an attention
    does; a parameter may not, and neither may hold NaN."""
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in state.items():
        for chunk in _floating_chunks(tensor):
            if chunk.element_size() == 1:  # torch looks into few of the types of eight bits
                chunk = chunk.float()
            is_bad = not torch.isfinite(chunk).all() if name in parameters else torch.isnan(chunk).any()
            if is_bad:
                raise CheckpointError("finite", f"{name}: expected finite weights, found NaN or infinity")


def _floating_chunks(tensor: Any) -> Iterator[Any]:
    if not is_tensor(tensor) or tensor.is_quantized:
        return
    if tensor.layout != torch.strided:
        tensor = tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()
    # What packs two numbers into an element has no NaN and no infinity.
    if tensor.is_complex() or (tensor.is_floating_point() and _SAFETENSORS_NAMES.get(tensor.dtype) != _PACKED):
        yield from tensor.reshape(-1).split(_CHECK_ELEMENTS)


@functools.cache
def can_assign() -> bool:
    """Whether a module can keep the tensors that it is given, instead of copying them into its own (torch 2.1)."""
    return "assign" in inspect.signature(torch.nn.Module.load_state_dict).parameters


def epsilon_of(module: Any) -> float:
    """Return the relative spacing of the numbers of a module's coarsest floating-point type; at least float32's."""
    dtypes = {tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()}
    return max(float(torch.finfo(dtype).eps) for dtype in (torch.float32, *dtypes))


def attach(module: Any, state: State, device: str, memory: TiedWeights) -> None:
    """Give a module its weights, without a copy where torch can; its tensors lie in memory as before afterwards."""
    # Safetensors state no versions, and some modules ask for them; torch's own then take the weights of all theirs.
    parts = {name: part for name, part in module.named_modules() if not type(part).__module__.startswith("torch.")}
    own = {name: {"version": part._version} for name, part in parts.items() if hasattr(part, "_version")}
    stated = versions_in(state)
    versions = {name: {**own.get(name, {}), **stated.get(name, {})} for name in {*own, *stated}}
    module.load_state_dict(VersionedState(state, versions), **({"assign": True} if can_assign() else {}))
    memory.restore()
    freeze(module.to(device))
    memory.restore()  # buffers that were moved are others


class VersionedState(OrderedDict[str, Any]):
    """A state dict as torch has it: one that carries by which version of each module its weights were written."""

    def __init__(self, tensors: State = MappingProxyType({}), versions: State = MappingProxyType({})) -> None:
        super().__init__(tensors)
        self._metadata = versions


def versions_in(state: State) -> State:
    """Return by which versions of which modules a state dict was written, where that is stated."""
    versions: State = getattr(state, "_metadata", {})
    return versions


def is_same(held: Any, published: Any) -> bool:
    """Whether an entry of a state dict in memory, on any device, is the published one: tensors by their sha256."""
    if is_tensor(held) and is_tensor(published):
        found = published if published.dtype == held.dtype else published.to(held.dtype)
        return held.shape == published.shape and _hash(held) == _hash(found)
    if isinstance(held, Mapping) and isinstance(published, Mapping):
        return held.keys() == published.keys() and all(is_same(held[key], published[key]) for key in held)
    if isinstance(held, (tuple, list)) and isinstance(published, (tuple, list)):
        return len(held) == len(published) and all(map(is_same, held, published))
    # Objects that cannot be compared, which only a full unpickling makes, count as the same.
    is_comparable = getattr(type(held), "__eq__", None) is not getattr(object, "__eq__", None)
    return type(held) is type(published) and (not is_comparable or bool(held == published))


def _hash(tensor: Any) -> bytes:
    digest = hashlib.sha256()
    for part in _dense_parts(tensor.detach()):
        for chunk in part.resolve_conj().resolve_neg().reshape(-1).split(_CHECK_ELEMENTS):
            digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
            time.sleep(0)  # a thread that answers a request goes first
    return digest.digest()


def _dense_parts(tensor: Any) -> Iterator[Any]:
    if tensor.is_quantized:
        yield tensor.dequantize()
    elif tensor.layout == torch.sparse_coo:
        yield from (tensor.coalesce().indices(), tensor.coalesce().values())
    elif tensor.layout == torch.strided:
        yield tensor
    else:  # compressed rows or columns, whose methods depend on which, and mkldnn
        for name in ("crow_indices", "col_indices", "ccol_indices", "row_indices"):
            with contextlib.suppress(RuntimeError, AttributeError):
                yield getattr(tensor, name)()
        yield tensor.values() if str(tensor.layout).startswith("torch.sparse") else tensor.to_dense()


def freeze(module: Any) -> None:
    """Make a module answer and not train."""
    with contextlib.suppress(NotImplementedError):  # an exported program has one mode, in which it was exported
        module.eval()
    for parameter in module.parameters():  # one by one: TorchScript modules have no requires_grad_
        parameter.requires_grad_(False)


def release(module: Any) -> None:
    """Free a module's weights one by one: unmapping a large model at once holds the interpreter lock all that time."""
    nothing = torch.empty(0)
    for tensor in (*module.parameters(), *module.buffers()):
        size_bytes = tensor.numel() * tensor.element_size()
        with contextlib.suppress(RuntimeError):  # TorchScript may hold constants
            tensor.data = nothing.to(tensor.dtype)
        if size_bytes >= _LARGE_BYTES:
            time.sleep(0)  # a thread that answers a request goes first
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def read_device_memory(device: str) -> Available | None:
    """Read what a device has free, or unused by this process; `None` for the host's own memory."""
    place = torch.device(device)
    if place.type != "cuda" or not hasattr(torch.cuda, "mem_get_info"):
        return None
    free_bytes, _ = torch.cuda.mem_get_info(place)
    cached_bytes = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    return Available(free_bytes + cached_bytes, f"free on {device}")


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
        return self.registry[self.key] if self.key in self.registry else None  # noqa: SIM401 - TorchScript's have no get

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
        for prefix, owner in module.named_modules(remove_duplicate=False):
            for registry in (owner._parameters, owner._buffers, vars(owner)):
                for key, tensor in list(registry.items()):
                    if isinstance(tensor, torch.Tensor):
                        place = _Place(f"{prefix}.{key}" if prefix else key, owner, key, registry, tensor)
                        groups.setdefault(_memory_of(tensor), []).append(place)
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
        """Add names that a file leaves out, from those of the same memory; raises `CheckpointError` if two differ."""
        for group in self._groups:
            held = [place for place in group if place.name in state]
            for place in group:
                if place.name in names and place.name not in state:
                    source = next((other for other in held if other.holds(place)), None)
                    if source is not None:
                        state[place.name] = _view(state[source.name], source, place)
            for place in held[1:]:
                if place.is_tied_to(held[0]) and not _are_equal(state[held[0].name], state[place.name]):
                    said = f"expected the values of {held[0].name}, its other name in the module, found others"
                    hint = "save what the module's own state_dict() gives, or untie them in the model class"
                    raise CheckpointError("architecture", f"{place.name}: {said}", hint)

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


def _are_equal(one: Any, other: Any) -> bool:
    if one.data_ptr() == other.data_ptr():
        return True
    # By their bytes: torch compares few of the types of eight bits.
    first, second = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return bool(first.equal(second))
