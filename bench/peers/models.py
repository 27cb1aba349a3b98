"""The three models of the comparison, the same bytes in every server.

Imported by the servers too, each in its own environment, so it needs nothing but torch, numpy and safetensors.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SHAPES = {"tiny": (10,), "mlp": (784,), "cnn": (3, 224, 224)}


class Tiny(torch.nn.Linear):
    """10 numbers to 1: the model costs nothing, the server everything."""

    example_inputs = ([0.0] * 10,)

    def __init__(self) -> None:
        super().__init__(10, 1)


class Mlp(torch.nn.Sequential):
    """784-1024-1024-10: a millisecond for one row, and far less for each of many."""

    example_inputs = ([0.0] * 784,)

    def __init__(self) -> None:
        relu = torch.nn.ReLU
        layers = torch.nn.Linear(784, 1024), relu(), torch.nn.Linear(1024, 1024), relu(), torch.nn.Linear(1024, 10)
        super().__init__(*layers)


class Block(torch.nn.Module):
    """The residual block of ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.main = torch.nn.Sequential(
            torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            torch.nn.BatchNorm2d(outputs),
            torch.nn.ReLU(),
            torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            torch.nn.BatchNorm2d(outputs),
        )
        is_same = stride == 1 and inputs == outputs
        self.short = torch.nn.Identity() if is_same else torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        return torch.relu(self.main(x) + self.short(x))


class Cnn(torch.nn.Sequential):
    """As large as ResNet-18, on 3x224x224."""

    example_inputs = ([[[0.0] * 224] * 224] * 3,)

    def __init__(self) -> None:
        stem = [torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(64), torch.nn.ReLU()]
        blocks = [Block(64, 64, 1), Block(64, 64, 1)]
        for width in (128, 256, 512):
            blocks += [Block(width // 2, width, 2), Block(width, width, 1)]
        head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(512, 1000)]
        super().__init__(*stem, torch.nn.MaxPool2d(3, 2, 1), *blocks, *head)


CLASSES = {"tiny": Tiny, "mlp": Mlp, "cnn": Cnn}


def write(directory: Path) -> None:
    """Write the weights of all models, unless they are there."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, (name, model_class) in enumerate(CLASSES.items()):
        path = directory / f"{name}.safetensors"
        if not path.exists():
            torch.manual_seed(number)
            save_file(model_class().state_dict(), path)


def load(name: str | None = None, directory: str | None = None) -> torch.nn.Module:
    """Load one model as a server does: the one that the harness asked for, on one thread."""
    name = name or os.environ["BENCH_MODEL"]
    torch.set_num_threads(1)
    model = CLASSES[name]()
    model.load_state_dict(load_file(Path(directory or os.environ["BENCH_WEIGHTS"]) / f"{name}.safetensors"))
    return model.eval()


def shape() -> tuple[int, ...]:
    """The shape of one row of the model that the harness asked for."""
    return SHAPES[os.environ["BENCH_MODEL"]]


def from_bytes(body: bytes) -> torch.Tensor:
    """Rows from little-endian float32, without a copy of the server's own."""
    return torch.frombuffer(bytearray(body), dtype=torch.float32).reshape(-1, *shape())
