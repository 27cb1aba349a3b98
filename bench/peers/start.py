"""What a peer is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

APPS = Path(__file__).resolve().parent / "apps"


@dataclass(frozen=True)
class Start:
    """What a peer is started with.

    Args:
        bin: the directory of the environment's programs.
        directory: an empty one for its files.
        model: which of the models.
        weights: where they lie.
        port: to listen on.
        workers: processes that hold the model.
        swapped_weights: what a swap brings, where one is measured.
    """

    bin: Path
    directory: Path
    model: str
    weights: Path
    port: int
    workers: int
    swapped_weights: Path = Path()
