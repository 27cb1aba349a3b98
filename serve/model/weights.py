"""The door to torch for files: reads state dicts and TorchScript, in workers only.

Safetensors hold numbers and nothing else. A pickle is a program: it is read with `weights_only=True`, and in full only
where the caller states that it may. That is not a security boundary on an old torch: see `weaknesses`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from serve.checkpoint.formats import EXPORT, SAFETENSORS, TORCHSCRIPT
from serve.errors import CheckpointError, plain

# What torch says of an object that weights_only does not build, among lines that tell how to trust it.
_UNSAFE = re.compile(r"Unsupported (?:global|class|operand)[^\n]*?(?=\. Please| was not an allowed|\n|$)")
_SHOWN = 300
RUN_ONCE = "run the module once before its state is saved"
# What torch's exported programs say of inputs that they are not for: 2.9 and later, and before.
GUARD = re.compile(r"Guard failed: |Expected input at \*args")
# Source: the advisories GHSA-53q9-r3pm-6pq6 (CVE-2025-32434) and that of CVE-2026-24747.
_FIXES = (((2, 6), "CVE-2025-32434"), ((2, 10), "CVE-2026-24747"))


def weaknesses(version: str) -> tuple[str, ...]:
    """Name the ways past `weights_only=True` that a version of torch has."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return tuple(name for fixed, name in _FIXES if numbers < fixed)


def torch_version() -> str:
    """Return the version of the torch that is installed."""
    return str(torch.__version__)


@functools.cache
def can_map_pickles() -> bool:
    """Whether a torch.save file can stay mapped, instead of being read into memory (torch 2.1)."""
    return "mmap" in inspect.signature(torch.load).parameters


def read_state(path: Path, format: str, may_unpickle: bool) -> Any:
    """Read a file of the store, mapped where torch can; `serve.model.state_dicts` finds the state dict in it."""
    if format == SAFETENSORS:
        try:
            return safetensors.torch.load_file(str(path))
        except (ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise CheckpointError("damaged", f"safetensors cannot read it: {error}") from error
    options: dict[str, object] = {"map_location": "cpu"}
    accepted = inspect.signature(torch.load).parameters
    if "weights_only" in accepted:
        options["weights_only"] = not may_unpickle
    elif not may_unpickle:
        said = f"torch {torch.__version__} cannot read a pickle without running its code, and its sha256 is not allowed"
        hint = "save safetensors, or add the sha256 to allowed_pickles"
        raise CheckpointError("pickle", said, hint)
    if can_map_pickles() and zipfile.is_zipfile(path):
        options["mmap"] = True
    with _blamed("torch.load"):
        try:
            return torch.load(str(path), **options)
        except Exception as error:
            unsafe = None if may_unpickle else _UNSAFE.search(str(error))
            if unsafe is None:
                raise
            if "Uninitialized" in unsafe.group():
                said = "expected weights, found a lazy layer without any"
                raise CheckpointError("content", said, RUN_ONCE) from error
            said = f"expected tensors only, found a pickle of more: {unsafe.group()[:_SHOWN]}"
            hint = "`python -m serve publish --convert FILE` makes safetensors of it and runs its code to do so; or "
            raise CheckpointError("pickle", said, hint + "list its sha256 in allowed_pickles") from error


@contextlib.contextmanager
def _blamed(reader: str) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError, CheckpointError):
        raise
    except Exception as error:  # whatever a damaged or hostile file provokes in this version of torch
        found = f"{type(error).__name__}: {plain(str(error))[:_SHOWN]}"
        raise CheckpointError("damaged", f"{reader} cannot read it: {found}") from error


def read_script(path: Path, device: str) -> Any:
    """Read a TorchScript module, which brings its own code. Raises `CheckpointError`: the file is damaged."""
    with _blamed("torch.jit.load"):
        return torch.jit.load(str(path), map_location=device)


def read_program(path: Path, device: str) -> Any:
    """Read a program of `torch.export`, which brings its own code; raises `CheckpointError`."""
    if not hasattr(torch, "export") or not hasattr(torch.export, "load"):
        said = f"torch {torch.__version__} cannot read torch.export programs; 2.1 and later can"
        raise CheckpointError("format", said)
    with _blamed("torch.export.load"):
        with path.open("rb") as reader:  # by its path, torch warns of every suffix but .pt2
            program = torch.export.load(reader)
        if torch.device(device).type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()


PROGRAMS = {TORCHSCRIPT: read_script, EXPORT: read_program}  # what brings its own code; the class needs the rest
