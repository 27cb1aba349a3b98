"""The door to torch for weights that are in memory, to compare, attach and free them. Only workers import it.

Written for torch 1.12.1 to 2.13; what a version lacks is asked of torch itself, not of its version number.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from serve.checkpoint.formats import EXTRA, TensorSpec
from serve.errors import CheckpointError
from serve.model.tied_weights import TiedWeights
from serve.system import cpus
from serve.system.host_memory import Available

# Source: the safetensors format description, and the names that safetensors 0.8 gives to types of torch. A torch that
# lacks a type has no tensor of it.
_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
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
# Unmapping less than this is quick.
_LARGE_BYTES = 1024 * 1024

State = Mapping[str, Any]


class _Limit(threading.local):
    """Whether a thread was given how many threads its operations may use: OpenMP and MKL keep that for each thread."""

    count = 0


_limit, _limited = 0, _Limit()


def limit_threads(stated: int, workers: int = 1) -> None:
    """Set how many threads one operation may use, in every thread that calls `limit_this_thread` from now on.

    Args:
        stated: by the settings; 0 for this worker's part of the cores. 1 is the quickest for small batches, where
            starting threads costs more than they save.
    """
    global _limit
    _limit = stated or cpus.threads_of_an_operation(cpus.count_cores(), workers, os.environ)
    limit_this_thread()


def limit_this_thread() -> None:
    """Have the operations of the calling thread use as many threads as `limit_threads` was given."""
    if _limited.count != _limit:
        torch.set_num_threads(_limit)
        _limited.count = _limit


def is_module(thing: object) -> bool:
    """Whether something is a `torch.nn.Module`."""
    return isinstance(thing, torch.nn.Module)


def is_tensor(thing: object) -> bool:
    """Whether something is a `torch.Tensor`."""
    return isinstance(thing, torch.Tensor)


def is_extra(name: str) -> bool:
    """Whether a name of a state dict may stand for something else than a tensor.

    Args:
        name: that of `get_extra_state()`, or of the packed weights of a quantised module.
    """
    return name.rpartition(".")[2] == "_extra_state" or "_packed_params" in name


def is_lazy(module: Any) -> bool:
    """Whether a module has tensors whose shapes its first input tells."""
    return any(torch.nn.parameter.is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers()))


def without_gradients() -> AbstractContextManager[None]:
    """Return the context in which a model answers, in a thread whose operations use no more threads than they may."""
    limit_this_thread()
    context: AbstractContextManager[None] = torch.inference_mode()
    return context


def unrecorded() -> AbstractContextManager[None]:
    """Return the context in which a module may make weights of its own that will be replaced."""
    context: AbstractContextManager[None] = torch.no_grad()
    return context


def interface_of(state: State) -> dict[str, TensorSpec]:
    """Return names, dtypes and shapes of a state dict.

    Args:
        state: tensors by name; what is not a tensor has the dtype `EXTRA`.
    """
    return {name: _spec_of(tensor) for name, tensor in state.items()}


def _spec_of(tensor: Any) -> TensorSpec:
    if not is_tensor(tensor):
        return TensorSpec(EXTRA, ())
    dtype, shape = _SAFETENSORS_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)
    if dtype == _PACKED and shape:
        shape = (*shape[:-1], 2 * shape[-1])
    return TensorSpec(dtype, shape)


def require_finite(state: State, module: Any) -> None:
    """Refuse weights that can only give useless answers.

    A buffer may hold infinities, as the mask of an attention does; a parameter may not, and neither may hold NaN.
    """
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
    """Give a module its weights, without a copy where torch can.

    Args:
        memory: how the module's tensors lay in memory, which they do again afterwards.
    """
    if can_assign():
        module.load_state_dict(state, assign=True)
    else:
        module.load_state_dict(state)
    memory.restore()
    freeze(module.to(device))
    memory.restore()  # buffers that were moved are others


def plain_module(module: Any) -> Any:
    """Return the module that `torch.compile` was given, or the module itself."""
    return getattr(module, "_orig_mod", module)


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
    """Free the weights of a module that is no longer used, one by one.

    Dropping a large model at once holds the interpreter lock for as long as it takes to unmap all of it.
    """
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
    """Read how much memory a device has left for this process.

    Returns:
        What is free there, and what this process holds there without using it; `None` for the host's own memory.
    """
    place = torch.device(device)
    if place.type != "cuda" or not hasattr(torch.cuda, "mem_get_info"):
        return None
    free_bytes, _ = torch.cuda.mem_get_info(place)
    cached_bytes = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    return Available(free_bytes + cached_bytes, f"free on {device}")
