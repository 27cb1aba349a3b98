"""On the trainer's side: a state dict that torch.save wrote becomes safetensors, which run no code when they are read.

Needs torch and safetensors, so only `serve.publishing.converted_source` imports it, and only when there is something
to convert.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from serve.checkpoint.formats import SAFETENSORS
from serve.errors import CheckpointError
from serve.model import state_dicts, weights
from serve.model.state_dicts import strip_wrappers
from serve.model.tensors import storage_of
from serve.publishing import tensors_only

# The code of what is a whole state dict, but nothing that safetensors can hold.
UNFIT = "unfit"
_MOST_SHOWN = 5


def convert(
    source: Path, format: str, target: Path, may_unpickle: bool, key: str | None, prefix: str | None
) -> list[str]:
    """Write the state dict of a file as safetensors.

    Args:
        may_unpickle: whether the source's code may run, as the trainer's own file's may.
        key: under which the state dict lies; `None` where there is only one.
        prefix: taken off the names, without those that begin otherwise; `None` for that of a known wrapper.

    Raises:
        CheckpointError: the source holds no state dict, or one that safetensors cannot hold.
        OSError: reading or writing failed.
    """
    metadata = None
    if format == SAFETENSORS:
        with safetensors.safe_open(str(source), "pt") as opened:
            metadata = opened.metadata()
    found, left_out = _read(source, format, may_unpickle)
    states = state_dicts.states_in(found) if key is None else state_dicts.states_in(found, passed_over=None)
    taken, state = state_dicts.choose(states, key)
    cut = strip_wrappers(list(state)) if prefix is None else prefix
    state = _strip(state, cut, is_stated=prefix is not None)
    strangers = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        said = f"safetensors hold tensors only, found {type(state[strangers[0]]).__name__} as {strangers[0]}"
        raise CheckpointError(UNFIT, said, hint="publish it with --no-convert, or keep it in a tensor")
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
            found, left_out = tensors_only.read(source)
            state_dicts.states_in(found)
        except Exception:  # the weights themselves are in an object, as those of a whole module
            raise error from None
        return found, left_out


def _strip(state: Any, prefix: str, is_stated: bool) -> dict[str, Any]:
    found = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    if is_stated and not found:
        heads = sorted({f"{name.partition('.')[0]}." for name in state if "." in name})
        shown = " and ".join(f'"{head}"' for head in heads[:_MOST_SHOWN]) or "no prefixes"
        raise CheckpointError("content", f'--strip-prefix: expected names that begin with "{prefix}", found {shown}')
    return found


def _own(tensor: Any, seen: set[int]) -> Any:
    """Return the tensor, or a copy where it shares its memory: tied weights are written once for each name."""
    memory = tensor.data_ptr()
    tensor = tensor.detach().contiguous()
    if tensor.numel() and memory in seen:
        return tensor.clone()
    seen.add(memory)
    is_part = storage_of(tensor).nbytes() != tensor.numel() * tensor.element_size()
    return tensor.clone() if is_part else tensor
