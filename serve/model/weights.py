"""The door to torch for files: reads state dicts and TorchScript, in workers only.

Safetensors hold numbers and nothing else. A pickle is a program: it is read with `weights_only=True`, and in full only
where the caller says that it may. That is no boundary on an old torch: see `weaknesses`.
"""

from __future__ import annotations

import functools
import inspect
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from serve.checkpoint.formats import SAFETENSORS
from serve.errors import CheckpointError
from serve.model.tensors import State

# Under these keys training scripts keep the weights beside the optimizer's state.
_WRAPPERS = ("state_dict", "model_state_dict")
# Source: the advisories GHSA-53q9-r3pm-6pq6 (CVE-2025-32434) and that of CVE-2026-24747.
_FIXES = (((2, 6), "CVE-2025-32434"), ((2, 10), "CVE-2026-24747"))


def weaknesses(version: str) -> tuple[str, ...]:
    """Name the ways past `weights_only=True` that a version of torch has.

    Args:
        version: for example `2.8.0+cu126`.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return tuple(name for fixed, name in _FIXES if numbers < fixed)


def torch_version() -> str:
    """Return the version of the torch that is installed."""
    return str(torch.__version__)


@functools.cache
def can_map_pickles() -> bool:
    """Whether a torch.save file can stay mapped, instead of being read into memory (torch 2.1)."""
    return "mmap" in inspect.signature(torch.load).parameters


def read_state(path: Path, format: str, may_unpickle: bool) -> State:
    """Read a state dict from a file that nobody writes to.

    Args:
        path: the read-only copy in the store; safetensors and, where torch can, torch.save files stay mapped from it.
        format: `"safetensors"` or `"torch"`.
        may_unpickle: whether a full unpickling may run the file's code.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        CheckpointError: the file is damaged, is not a state dict, or would need an unpickling that is not allowed.
    """
    if format == SAFETENSORS:
        try:
            loaded: object = safetensors.torch.load_file(str(path))
        except (ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise CheckpointError("damaged", f"safetensors cannot read it: {error}") from error
    else:
        loaded = _unpickle(path, may_unpickle)
    return _require_state(loaded)


def _unpickle(path: Path, may_unpickle: bool) -> object:
    options: dict[str, object] = {"map_location": "cpu"}
    accepted = inspect.signature(torch.load).parameters
    if "weights_only" in accepted:
        options["weights_only"] = not may_unpickle
    elif not may_unpickle:
        raise CheckpointError(
            "pickle",
            f"torch {torch.__version__} cannot read a pickle without running its code, and its sha256 is not allowed",
            hint="save safetensors, or add the sha256 to allowed_pickles",
        )
    if can_map_pickles() and zipfile.is_zipfile(path):
        options["mmap"] = True
    try:
        loaded: object = torch.load(str(path), **options)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged or hostile pickle provokes
        raise _damaged("torch.load", error) from error
    return loaded


def _damaged(reader: str, error: Exception) -> CheckpointError:
    first_line = (str(error).splitlines() or [""])[0]
    return CheckpointError("damaged", f"{reader} cannot read it: {type(error).__name__}: {first_line}")


def read_script(path: Path, device: str) -> Any:
    """Read a TorchScript module, which brings its own code.

    Args:
        path: the read-only copy in the store.
        device: where it is to compute.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        module = torch.jit.load(str(path), map_location=device)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises RuntimeError, and other types, according to its version
        raise _damaged("torch.jit.load", error) from error
    return module


def _require_state(loaded: object) -> State:
    state = loaded
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            state = loaded[key]
            break
    if not isinstance(state, Mapping):
        raise CheckpointError("content", f"expected a state dict, found {type(state).__name__}")
    strangers = sorted(str(name) for name, value in state.items() if not isinstance(value, torch.Tensor))
    if strangers:
        raise CheckpointError("content", f"expected only tensors in the state dict, found others: {strangers[:5]}")
    return state
