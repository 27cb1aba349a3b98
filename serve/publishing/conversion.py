"""On the trainer's side: a state dict that torch.save wrote becomes safetensors, which run no code when they are read.

Of a pickle that holds objects beside its tensors, each name leads either to what builds tensors, or to a class that
takes everything and does nothing: `find_class` is the only way from a pickle to code. Needs torch, so it is imported
only when there is something to convert."""

from __future__ import annotations

import inspect
import pickle
import types
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch.nn.parameter import is_lazy

from serve.checkpoint.formats import SAFETENSORS, strip_prefix
from serve.errors import CheckpointError
from serve.model import state_dicts, weights
from serve.model.state_dicts import strip_wrappers
from serve.model.tensors import storage_of

UNFIT = "unfit"  # the code of what is a whole state dict, but nothing that safetensors can hold
_MOST_SHOWN = 5


def convert(
    source: Path, format: str, target: Path, may_unpickle: bool, key: str | None, prefix: str | None
) -> list[str]:
    """Write a file's state dict as safetensors; `Conversion` describes key and prefix. Raises `CheckpointError`."""
    metadata = None
    if format == SAFETENSORS:
        with safetensors.safe_open(str(source), "pt") as opened:
            metadata = opened.metadata()
    found, left_out = _read(source, format, may_unpickle)
    states = state_dicts.states_in(found) if key is None else state_dicts.states_in(found, passed_over=None)
    taken, state = state_dicts.choose(states, key)
    cut = strip_wrappers(list(state)) if prefix is None else prefix
    state = {new: state[old] for new, old in strip_prefix(state, cut).items()}
    strangers = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        said = f"safetensors hold tensors only, found {type(state[strangers[0]]).__name__} as {strangers[0]}"
        raise CheckpointError(UNFIT, said, hint="publish it with --no-convert, or keep it in a tensor")
    empty = next((name for name, value in state.items() if value.is_meta or is_lazy(value)), None)
    if empty is not None:
        raise CheckpointError("content", f"{empty}: expected values, found a tensor without any", hint=weights.RUN_ONCE)
    seen: set[int] = set()
    try:
        held = {name: _own(tensor, seen) for name, tensor in state.items()}
        safetensors.torch.save_file(held, str(target), metadata)
    except OSError:
        raise
    except Exception as error:  # of torch or safetensors, for types and layouts that have no name there
        said = f"safetensors cannot hold it: {type(error).__name__}: {error}"
        raise CheckpointError(UNFIT, said, hint="publish it with --no-convert") from error
    took_off = [f'took off "{part}"' for part in (taken, cut) if part]
    return took_off + ([f"left out objects of {', '.join(left_out[:_MOST_SHOWN])}"] if left_out else [])


def _read(source: Path, format: str, may_unpickle: bool) -> tuple[Any, list[str]]:
    """Read a file; where that would run its code, what it holds beside objects."""
    try:
        return weights.read_state(source, format, may_unpickle), []
    except CheckpointError as error:
        if error.code != "pickle":
            raise
        try:
            found, left_out = read_tensors_only(source)
            state_dicts.states_in(found)
        except Exception:  # the weights themselves are in an object, as those of a whole module
            raise error from None
        return found, left_out


def _own(tensor: Any, seen: set[int]) -> Any:
    """Return the tensor, or a copy where it shares its memory: tied weights are written once for each name."""
    memory = tensor.data_ptr()
    tensor = tensor.detach().contiguous()
    if tensor.numel() and memory in seen:
        return tensor.clone()
    seen.add(memory)
    is_part = storage_of(tensor).nbytes() != tensor.numel() * tensor.element_size()
    return tensor.clone() if is_part else tensor


# What `torch.Tensor.__reduce_ex__` names, from torch 1.12 to 2.13.
_BUILDERS = ("tensor_v2", "tensor_v3", "parameter", "sparse_tensor", "qtensor")
_ALLOWED = {("collections", "OrderedDict"), ("torch", "Size"), ("torch", "device")}
_ALLOWED |= {("torch._utils", f"_rebuild_{name}") for name in _BUILDERS}
_ALLOWED |= {("torch.serialization", "_get_layout"), ("torch.storage", "UntypedStorage")}


class LeftOut:
    """Stands for an object of any class beside the weights; the class is not even imported."""

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def take(self, *anything: object) -> None:
        """Pass over what a pickle wants stored in it."""

    __setstate__ = __setitem__ = append = extend = add = take


def read_tensors_only(path: Path) -> tuple[Any, list[str]]:
    """Read what torch.save wrote, with a `LeftOut` for each object but tensors; return the names of those."""
    left_out: set[str] = set()

    class Unpickler(pickle.Unpickler):  # its C implementation, which stores through the methods of what it built
        def find_class(self, module: str, name: str) -> Any:
            is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
            if is_type or (module, name) in _ALLOWED:
                return super().find_class(module, name)
            left_out.add(f"{module}.{name}")
            return LeftOut

    def load(file: IO[bytes], **options: Any) -> Any:
        return Unpickler(file, **options).load()

    careful = types.SimpleNamespace(Unpickler=Unpickler, load=load, __name__="pickle")
    options = {"weights_only": False} if "weights_only" in inspect.signature(torch.load).parameters else {}
    found = torch.load(str(path), map_location="cpu", pickle_module=careful, **options)
    return found, sorted(left_out)
