"""On the trainer's side: a state dict that torch.save wrote becomes safetensors, which run no code when they are read.

Needs torch and safetensors, so only `serve.publishing.publish` imports it, and only when there is something to convert.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from serve.checkpoint.formats import TORCH
from serve.model import weights


def can_read_safely() -> bool:
    """Whether this torch can read a pickle without running its code (torch 1.13)."""
    return "weights_only" in inspect.signature(torch.load).parameters


def convert(source: Path, target: Path, may_unpickle: bool) -> None:
    """Write the state dict of a torch.save file as safetensors.

    Args:
        source: what torch.save wrote.
        target: the file to write.
        may_unpickle: whether the source's code may run, as the trainer's own file's may.

    Raises:
        CheckpointError: the source holds no state dict.
        OSError: reading or writing failed.
    """
    state = weights.read_state(source, TORCH, may_unpickle)
    seen: set[int] = set()
    safetensors.torch.save_file({name: _own(tensor, seen) for name, tensor in state.items()}, str(target))


def _own(tensor: Any, seen: set[int]) -> Any:
    """Return the tensor, or a copy where it shares its memory: tied weights are written once for each name."""
    memory = tensor.data_ptr()
    tensor = tensor.detach().contiguous()
    if tensor.numel() and memory in seen:
        return tensor.clone()
    seen.add(memory)
    is_part = _storage_bytes(tensor) != tensor.numel() * tensor.element_size()
    return tensor.clone() if is_part else tensor


def _storage_bytes(tensor: Any) -> int:
    if hasattr(tensor, "untyped_storage"):
        return int(tensor.untyped_storage().nbytes())
    return int(tensor.storage().nbytes())
