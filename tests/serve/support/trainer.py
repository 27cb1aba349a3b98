"""A trainer that writes checkpoints of `affine:Affine` and knows what each must answer.

Weights and requests are small whole numbers, which float32 holds exactly: the right answer is computed here in plain
Python, by the sha256 of the checkpoint that an answer claims to come from.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy
import safetensors.numpy

from serve.publishing.publish import publish

ROW = [3.0, -2.0, 5.0, 7.0]


class Trainer:
    """Writes to `work`, publishes to `directory`."""

    def __init__(self, work: Path, directory: Path) -> None:
        self.work, self.directory = work, directory
        self.work.mkdir()
        self.directory.mkdir()
        self._weights: dict[str, tuple[list[list[int]], list[int]]] = {}

    def train(self, seed: int, name: str = "model.safetensors") -> Path:
        """Write a checkpoint whose weights follow from the seed, and return where it is."""
        draw = random.Random(seed)
        weight = [[draw.randint(-50, 50) for _ in range(4)] for _ in range(2)]
        bias = [draw.randint(-50, 50) for _ in range(2)]
        path = self.write(
            name, {"layer.weight": numpy.array(weight, "float32"), "layer.bias": numpy.array(bias, "float32")}
        )
        self._weights[sha256_of(path)] = (weight, bias)
        return path

    def sha256(self, seed: int) -> str:
        """Return the sha256 of the checkpoint that follows from a seed."""
        return sha256_of(self.train(seed))

    def write(self, name: str, state: dict[str, numpy.ndarray]) -> Path:
        """Write any state dict as safetensors."""
        path = self.work / name
        safetensors.numpy.save_file(state, str(path))
        return path

    def publish(self, seed: int, name: str | None = None, version: str | None = None):
        """Train and publish, as the command does."""
        path = self.train(seed)
        return publish(path, self.directory, name or f"model_{seed}.safetensors", version)

    def publish_kind(self, kind: int, seed: int = 7, second_bias: float = 0.0):
        """Publish weights of `affine:Turning`, whose first bias tells how the model turns out."""
        draw = numpy.random.default_rng(seed)
        state = {
            "layer.weight": draw.integers(-9, 9, (2, 4)).astype("float32"),
            "layer.bias": numpy.array([kind, second_bias], "float32"),
        }
        return publish(self.write("m.safetensors", state), self.directory, f"model_{kind}_{seed}.safetensors")

    def expected(self, sha256: str, row: list[float] = ROW) -> list[float]:
        """Return what the checkpoint with this sha256 answers for a row."""
        weight, bias = self._weights[sha256]
        return [sum(w * x for w, x in zip(line, row)) + b for line, b in zip(weight, bias)]

    def remember(self, path: Path, like: Path) -> None:
        """Know a file as another form of the same weights."""
        self._weights[sha256_of(path)] = self._weights[sha256_of(like)]


def sha256_of(path: Path) -> str:
    """Hash a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mark(path: Path, content: bytes = b"") -> Path:
    """Write the marker of a checkpoint as a shell script would."""
    marker = path.with_name(path.name + ".done")
    marker.write_bytes(content)
    return marker
