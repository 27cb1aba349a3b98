"""The door to torch for weights that are in memory; `serve.model.weights` reads them, `serve.model.inputs` and
`serve.model.outputs` are for requests. Only workers import it.

Compares, attaches and frees weights. Written for torch 1.12.1 to 2.13; what a
version lacks is asked of torch itself, not of its version number.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from serve.checkpoint.formats import TensorSpec
from serve.errors import CheckpointError
from serve.system.host_memory import Available

_SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# Bounds the temporary memory of the finite check; what is larger, glibc keeps in the thread's arena (measured: 48 MB).
_CHECK_ELEMENTS = 1024 * 1024
# Unmapping less than this is quick.
_LARGE_BYTES = 1024 * 1024

State = Mapping[str, Any]


def limit_threads(count: int) -> None:
    """Set how many threads one operation may use in this process.

    Args:
        count: 1 is the quickest for small batches, where starting threads costs more than they save.
    """
    torch.set_num_threads(count)


def is_module(thing: object) -> bool:
    """Whether something is a `torch.nn.Module`."""
    return isinstance(thing, torch.nn.Module)


def without_gradients() -> AbstractContextManager[None]:
    """Return the context in which a model answers."""
    context: AbstractContextManager[None] = torch.inference_mode()
    return context


def interface_of(state: State) -> dict[str, TensorSpec]:
    """Return names, dtypes and shapes of a state dict.

    Args:
        state: tensors by name.
    """
    return {
        name: TensorSpec(_SAFETENSORS_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
        for name, tensor in state.items()
    }


def require_finite(state: State, module: Any) -> None:
    """Refuse weights that can only give useless answers.

    A buffer may hold infinities, as the mask of an attention does; a parameter may not, and neither may hold NaN.

    Args:
        state: tensors by name.
        module: tells which of them are parameters.

    Raises:
        CheckpointError: naming the first tensor at fault.
    """
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in state.items():
        for chunk in _floating_chunks(tensor):
            is_bad = not torch.isfinite(chunk).all() if name in parameters else torch.isnan(chunk).any()
            if is_bad:
                raise CheckpointError("finite", f"{name}: expected finite weights, found NaN or infinity")


def _floating_chunks(tensor: Any) -> Iterator[Any]:
    if tensor.is_floating_point():
        yield from tensor.reshape(-1).split(_CHECK_ELEMENTS)


@functools.cache
def can_assign() -> bool:
    """Whether a module can keep the tensors that it is given, instead of copying them into its own (torch 2.1)."""
    return "assign" in inspect.signature(torch.nn.Module.load_state_dict).parameters


def attach(module: Any, state: State, device: str) -> None:
    """Give a module its weights, without a copy where torch can.

    Args:
        module: of the same interface as the state.
        state: tensors by name; the module may keep them.
        device: where the module is to compute.
    """
    if can_assign():
        module.load_state_dict(state, assign=True)
    else:
        module.load_state_dict(state)
    freeze(module.to(device))


def freeze(module: Any) -> None:
    """Make a module answer and not train.

    Args:
        module: holds its weights already.
    """
    module.eval()
    for parameter in module.parameters():  # one by one: TorchScript modules have no requires_grad_
        parameter.requires_grad_(False)


def release(module: Any) -> None:
    """Free the weights of a module that nobody uses any more, one by one.

    Dropping a large model at once holds the interpreter lock for as long as it takes to unmap all of it.

    Args:
        module: is of no use afterwards.
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

    Args:
        device: as the settings name it.

    Returns:
        What is free there, and what this process holds there without using it; `None` for the host's own memory.
    """
    place = torch.device(device)
    if place.type != "cuda" or not hasattr(torch.cuda, "mem_get_info"):
        return None
    free_bytes, _ = torch.cuda.mem_get_info(place)
    cached_bytes = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    return Available(free_bytes + cached_bytes, f"free on {device}")
