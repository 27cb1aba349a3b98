"""A candidate before it is loaded: refused by its first bytes, or proposed as the next generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.errors import CheckpointError, CheckpointMovedError
from serve.source.local import look_at_checkpoint
from serve.store.ledger import Entry

if TYPE_CHECKING:
    from serve.checkpoint.stored import Stored
    from serve.source.observation import Load
    from serve.store.checkpoint_store import Store
    from serve.swap.context import Loader

# How many digits of the sha256 stand for a version that no marker named.
_SHORT_SHA256 = 12


def preview(loader: Loader, store: Store, candidate: Load) -> None:
    """Refuse before the copy what the first bytes prove; those of another machine are copied first.

    Raises:
        CheckpointError: the checkpoint is at fault.
        CheckpointMovedError: it changed since it was observed.
        OSError: it cannot be read.
    """
    seen, sha256 = candidate.observation, candidate.manifest.sha256
    if seen.source is not None or (sha256 is not None and store.has(sha256)):
        return
    try:
        loader.preview(seen.path, candidate.manifest)
    except CheckpointError as error:
        if look_at_checkpoint(seen.path) != seen.checkpoint:
            raise CheckpointMovedError(f"{seen.path.name}: it changed since it was observed") from error
        raise


def propose(candidate: Load, stored: Stored) -> Entry:
    """Return the generation that a candidate would be, without its number."""
    seen = candidate.observation
    return Entry(
        generation=0,
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        version=candidate.manifest.version or stored.sha256[:_SHORT_SHA256],
        name=seen.path.name,
        marker_mtime_ns=seen.marker.mtime_ns,
        fingerprint=seen.fingerprint,
        marker_generation=seen.generation,
        marker=seen.text.decode(errors="replace"),
    )
