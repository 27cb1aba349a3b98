"""The format of a checkpoint file, found in its bytes, and the interface that a safetensors header states.

No tensor is read here and torch is not needed: a checkpoint of another architecture is refused before its weights are
touched. Unpickling is left to `serve.model.weights`."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from serve.errors import CheckpointError

SAFETENSORS = "safetensors"
TORCH = "torch"
TORCHSCRIPT = "torchscript"
EXPORT = "export"
FORMATS = (SAFETENSORS, TORCH, TORCHSCRIPT, EXPORT)
# By which file of the archive it is known: all three are zip archives of pickles. Programs of torch 2.8 and later, then
# of earlier ones.
_MARKS = ((TORCHSCRIPT, "/constants.pkl"), (EXPORT, "models/model.json"), (EXPORT, "serialized_exported_program.json"))

EXTRA = "EXTRA"  # the dtype of what a state dict holds beside tensors, such as what `get_extra_state()` gives
_FLOATING = frozenset({"F64", "F32", "F16", "BF16"})

_HEADER_LIMIT_BYTES = 100_000_000  # Source: the safetensors format description, to stop a hostile length
_MOST_ISSUES_SHOWN = 5


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, without its values. `dtype`: the name that safetensors uses, for example `F32` or `I64`."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        if self.dtype == EXTRA:
            return "extra state that is not a tensor"
        return f"{self.dtype}{list(self.shape)}"


Interface = Mapping[str, TensorSpec]


def detect_format(path: Path) -> str:
    """Tell a checkpoint's format from its first bytes, never from its suffix; raises `CheckpointError` for others."""
    with path.open("rb") as reader:
        start = reader.read(9)
    # Asked first: its first byte is the lowest of a length, and can be that of a pickle. The limit of that length
    # leaves its last four bytes 0, and no pickle and no zip archive has them so.
    if start[4:] == b"\0\0\0\0{":
        return SAFETENSORS
    # A zip archive is what torch.save writes since 1.6; a bare pickle is what it wrote before.
    if start[:4] != b"PK\x03\x04" and start[:1] != b"\x80":
        shown = start[:8].hex() or "an empty file"
        raise CheckpointError("format", f"expected safetensors or a torch.save file, found {shown}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError):
        return TORCH  # a bare pickle, or not whole: who reads it says what is wrong
    return next((format for format, mark in _MARKS if any(name.endswith(mark) for name in names)), TORCH)


@dataclass(frozen=True)
class Piece:
    """A tensor of a safetensors file, and where its bytes lie."""

    name: str
    spec: TensorSpec
    file: Path
    begin: int
    size_bytes: int


def read_pieces(path: Path) -> list[Piece]:
    """Read a header whose file is exactly as long as it states; raises `CheckpointError` for any other one."""
    with path.open("rb") as reader:
        size_bytes = reader.seek(0, 2)
        reader.seek(0)
        prefix = reader.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT_BYTES, size_bytes - 8):
            raise CheckpointError("damaged", f"expected a header inside {size_bytes} bytes, found a length of {length}")
        text = reader.read(length)
    body_bytes = size_bytes - 8 - length
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("damaged", f"the safetensors header is not JSON ({error})") from error
    if not isinstance(entries, dict):
        raise CheckpointError("damaged", "the safetensors header is not an object")
    pieces, expected_bytes = [], 0
    try:
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            begin, end = map(int, entry["data_offsets"])
            if not 0 <= begin <= end:
                raise ValueError(f"data_offsets {begin} to {end}")
            spec = TensorSpec(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
            pieces.append(Piece(name, spec, path, 8 + length + begin, end - begin))
            expected_bytes = max(expected_bytes, end)
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError("damaged", f"the safetensors header is malformed ({error!r})") from error
    if expected_bytes != body_bytes:
        said = f"expected {expected_bytes} bytes of weights after the header, found {body_bytes}"
        raise CheckpointError("damaged", said)
    return pieces


def read_safetensors_interface(path: Path) -> dict[str, TensorSpec]:
    """Read names, dtypes and shapes from a safetensors header, and check that the file is as long as it states."""
    return {piece.name: piece.spec for piece in read_pieces(path)}


def compare_interfaces(expected: Interface, actual: Interface) -> list[str]:
    """List how a checkpoint differs from the module that is to hold it: a line for each tensor, sorted by name."""
    issues = []
    for name in sorted({**expected, **actual}):
        if name not in actual:
            issues.append(f"{name}: expected {expected[name]}, missing in the checkpoint")
        elif name not in expected:
            issues.append(f"{name}: not in the module, found {actual[name]}")
        elif expected[name] != actual[name]:
            issues.append(f"{name}: expected {expected[name]}, found {actual[name]}")
    return issues


def require_interface(expected: Interface, actual: Interface) -> None:
    """Refuse a checkpoint that is not of the module's architecture."""
    issues = compare_interfaces(expected, actual)
    if issues:
        shown = "; ".join(issues[:_MOST_ISSUES_SHOWN])
        rest = len(issues) - _MOST_ISSUES_SHOWN
        tail = f"; and {rest} more" if rest > 0 else ""
        hint = _advise(expected, actual)
        raise CheckpointError("architecture", f"the checkpoint is of another architecture: {shown}{tail}", hint=hint)


def _advise(expected: Interface, actual: Interface) -> str | None:
    differing = {name: (spec, actual.get(name)) for name, spec in expected.items() if actual.get(name) != spec}
    if any(spec.dtype == EXTRA for spec, _ in differing.values()):
        return "safetensors hold tensors only: publish with --no-convert, or have get_extra_state() return a tensor"
    kinds = {(spec.dtype, found.dtype) for spec, found in differing.values() if found and found.shape == spec.shape}
    if len(kinds) == 1 and set(expected) == set(actual) and kinds <= {(a, b) for a in _FLOATING for b in _FLOATING}:
        ((wanted, found),) = kinds
        return f"cast the module to {found} in its __init__ or build_module(), or save the weights as {wanted}"
    return None


def strip_prefix(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Return the names that begin with a prefix, by what remains of them. Raises `CheckpointError`: there is none."""
    names = list(names)
    found = {name[len(prefix) :]: name for name in names if name.startswith(prefix)}
    if prefix and not found:
        heads = sorted({f"{name.partition('.')[0]}." for name in names if "." in name})
        shown = " and ".join(f'"{head}"' for head in heads[:_MOST_ISSUES_SHOWN]) or "no prefixes"
        raise CheckpointError("content", f'--strip-prefix: expected names that begin with "{prefix}", found {shown}')
    return found
