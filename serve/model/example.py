"""Examples that a class does not have itself: from a stated form, `float32[1, 16]`, or guessed from a module's layers.

Only workers, and what tries a model out, import this."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

_FORM = re.compile(r"([a-z]+\d*)\[(\d+(?:, ?\d+)*)\]")
_SEED = 7
# Sides of images, and lengths of signals and texts, that networks are commonly built for.
_SIDES, _LENGTHS, _FRAMES, _TOKENS = (32, 28, 64, 96, 224, 299), (16, 128, 1024, 16000), 16, 16


def expand(stated: object) -> object:
    """Make inputs of rows, of a text such as `float32[1, 16]`, drawn with a fixed seed, or of either by name."""
    if isinstance(stated, Mapping):
        return {name: expand(part) for name, part in stated.items()}
    form = _FORM.fullmatch(stated) if isinstance(stated, str) else None
    return stated if form is None else draw(form[1], tuple(map(int, form[2].split(",")))).tolist()


def draw(dtype: str, shape: tuple[int, ...]) -> Any:
    """Draw a tensor: normal fractions, or the whole numbers 0 and 1, which nearly every table of tokens has."""
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"expected a type of torch, such as float32 or int64, found {dtype}")
    generator = torch.Generator().manual_seed(_SEED)
    if found.is_floating_point:
        return torch.randn(shape, generator=generator).round(decimals=3).to(found)
    return torch.randint(0, 2, shape, generator=generator).to(found)


def guess(module: Any) -> str | dict[str, str] | None:
    """Guess an example for `expand`, by trying what a module's first layers take; `None` where nothing fits."""
    names = required_parameters(module)
    module = module.eval()
    for dtype, shape in _candidates(module):
        tensor = draw(dtype, shape)
        # What a module's code raises for inputs that do not fit can be anything.
        with contextlib.suppress(Exception), torch.no_grad():
            module(*[tensor] * len(names))
            form = f"{dtype}[{', '.join(map(str, shape))}]"
            return form if len(names) == 1 else dict.fromkeys(names, form)
    return None


def required_parameters(module: Any) -> list[str]:
    """Return the names of what `forward` must be given; a sole one where that cannot be read."""
    with contextlib.suppress(TypeError, ValueError):
        parameters = inspect.signature(module.forward).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [one.name for one in parameters if one.kind in kinds and one.default is inspect.Parameter.empty]
        return names or ["inputs"]
    return ["inputs"]


def _candidates(module: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """List types and shapes, those that the first layers suggest before the others."""
    layers = torch.nn
    for layer in module.modules():
        if isinstance(layer, (layers.Embedding, layers.EmbeddingBag)):
            yield "int64", (1, min(_TOKENS, layer.num_embeddings))
        elif isinstance(layer, layers.Conv1d):
            yield from (("float32", (1, layer.in_channels, length)) for length in _LENGTHS)
        elif isinstance(layer, layers.Conv2d):
            yield from (("float32", (1, layer.in_channels, side, side)) for side in _SIDES)
        elif isinstance(layer, layers.Conv3d):
            yield from (("float32", (1, layer.in_channels, _FRAMES, side, side)) for side in (32, 112))
        elif isinstance(layer, layers.RNNBase):
            yield "float32", (1, _TOKENS, layer.input_size)
        elif isinstance(layer, layers.MultiheadAttention):
            yield "float32", (1, _TOKENS, layer.embed_dim)
        elif isinstance(layer, layers.Linear):
            yield "float32", (1, layer.in_features)
            yield "float32", (1, _TOKENS, layer.in_features)
        elif isinstance(layer, (layers.BatchNorm1d, layers.BatchNorm2d)):
            yield from (("float32", (1, layer.num_features, *[_SIDES[0]] * sides)) for sides in (0, 1, 2))
        elif isinstance(layer, layers.LayerNorm):
            yield "float32", (1, *layer.normalized_shape)
            yield "float32", (1, _TOKENS, *layer.normalized_shape)


def save_weights(module: Any, path: Path) -> None:
    """Write a module's own weights, as `torch.save` does."""
    torch.save(module.state_dict(), path)


def count_bytes(module: Any) -> tuple[int, int]:
    """Count the parameters of a module, and the bytes of its parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    parameters = sum(tensor.numel() for tensor in module.parameters())
    return parameters, sum(tensor.numel() * tensor.element_size() for tensor in tensors)
