"""Publish a checkpoint: whole, synced, and marked last.

At no moment do a marker and a checkpoint lie side by side that do not belong together: the old marker goes before the
new bytes come. A server that looks in between keeps what it serves.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from serve import files
from serve.checkpoint import MARKER_SUFFIX
from serve.errors import CheckpointError, PublishError
from serve.formats import SAFETENSORS, detect_format, read_safetensors_interface
from serve.manifest import WORD

_SHORT_SHA256 = 12


@dataclass(frozen=True)
class Published:
    """What was published.

    Args:
        checkpoint: where it lies now.
        sha256: of its bytes.
        size: in bytes.
        version: that the marker gives it.
        created: when it was published, as ISO 8601.
        format: `"safetensors"` or `"torch"`.
    """

    checkpoint: str
    sha256: str
    size: int
    version: str
    created: str
    format: str


def publish(source: Path, directory: Path, name: str | None = None, version: str | None = None) -> Published:
    """Publish a file as a checkpoint.

    Args:
        source: the file that the trainer wrote.
        directory: the watched place, or the directory of the checkpoint that is watched; created when absent.
        name: the checkpoint's file name there; the source's by default.
        version: a name for this content; the start of its sha256 by default.

    Returns:
        What was published.

    Raises:
        PublishError: the source is no checkpoint, or a name does not fit. Nothing was changed.
    """
    name = name or source.name
    for what, given in (("name", name), ("version", version)):
        if given is not None and not WORD.fullmatch(given):
            raise PublishError(f"the {what}: expected letters, digits and ._+-, found {given!r}")
    if name.endswith(MARKER_SUFFIX):
        raise PublishError(f"the name: expected a checkpoint, found the name of a marker, {name!r}")
    try:
        format = _require_whole(source)
        return _publish(source, directory / name, version, format)
    except CheckpointError as error:
        raise PublishError(error.message, hint="publish what torch.save or safetensors wrote") from error
    except OSError as error:
        raise PublishError(
            f"{error.filename or source}: {error.strerror}", hint="check the path and its rights"
        ) from error


def _require_whole(source: Path) -> str:
    format = detect_format(source)
    if format == SAFETENSORS:
        read_safetensors_interface(source)
    return format


def _publish(source: Path, target: Path, version: str | None, format: str) -> Published:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    marker = target.with_name(target.name + MARKER_SUFFIX)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        copied = files.copy_hashed(descriptor, temporary)
        sha256, size = copied.sha256, copied.size_bytes
        marker.unlink(missing_ok=True)
        files.sync_directory(target.parent)
        temporary.replace(target)
        files.sync_directory(target.parent)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
    published = Published(
        checkpoint=str(target),
        sha256=sha256,
        size=size,
        version=version or sha256[:_SHORT_SHA256],
        created=datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        format=format,
    )
    stated = {key: value for key, value in asdict(published).items() if key != "checkpoint"}
    files.replace_file(marker, json.dumps(stated, indent=1).encode() + b"\n")
    return published
