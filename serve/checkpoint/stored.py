"""A proven checkpoint, as the store hands it to whatever reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stored:
    """A proven checkpoint in the store.

    Args:
        copy_s: seconds that reading and writing took here; 0 where the bytes were there already.
        hash_s: seconds that hashing took here; 0 where the bytes were proven already.
    """

    path: Path
    sha256: str
    size_bytes: int
    copy_s: float = 0.0
    hash_s: float = 0.0
