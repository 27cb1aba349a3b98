"""Verification of the checkpoints of a directory against their markers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serve import durable_files
from serve.checkpoint import sharded
from serve.checkpoint.formats import SAFETENSORS, detect_format, read_safetensors_interface
from serve.checkpoint.manifest import parse_marker
from serve.errors import CheckpointError, OperationError
from serve.source.local import LocalSource
from serve.source.observation import Observation


@dataclass(frozen=True)
class Verdict:
    """What `verify` found about one marked checkpoint."""

    path: Path
    sha256: str | None  # of its bytes, where they could be read
    version: str | None
    problem: str | None


def verify(path: Path) -> list[Verdict]:
    """Check the marked checkpoints of a directory, or one, against their markers; raises `OperationError`."""
    if not path.exists():
        said = f"{path}: expected a directory of checkpoints, found nothing"
        raise OperationError(said, hint="see: python -m serve verify --help")
    return [_verify(seen) for seen in LocalSource(path).observe()]


def _verify(seen: Observation) -> Verdict:
    sha256, version = None, None
    try:
        if seen.problem is not None:
            raise CheckpointError("marker", seen.problem)
        manifest = parse_marker(seen.text)
        version = manifest.version
        if seen.checkpoint is None:
            raise CheckpointError("missing", "the checkpoint: expected beside its marker, found nothing")
        is_index = sharded.is_index(seen.path)
        sha256 = sharded.hash_joined(seen.path) if is_index else durable_files.hash_file(seen.path)
        found_bytes = seen.checkpoint.size_bytes
        if manifest.size_bytes not in (None, found_bytes):
            raise CheckpointError("size", f"the size: expected {manifest.size_bytes} bytes, found {found_bytes}")
        if manifest.sha256 not in (None, sha256):
            raise CheckpointError("hash", f"the sha256: expected {manifest.sha256}, found {sha256}")
        if not is_index and detect_format(seen.path) == SAFETENSORS:
            read_safetensors_interface(seen.path)
    except CheckpointError as error:
        return Verdict(seen.path, sha256, version, error.message)
    except OSError as error:
        return Verdict(seen.path, sha256, version, f"it cannot be read: {error.strerror}")
    return Verdict(seen.path, sha256, version, None)
