"""The inputs and outputs of a model as named arrays, for those who answer requests with it; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

# The name of the only input, and of the only output, of a model that names none.
INPUTS, OUTPUTS = "inputs", "outputs"
TEXT = "text"


@dataclass(frozen=True)
class ArrayForm:
    """One named input or output: `dtype` is NumPy's name or `text`, and `None` in `shape` stands for any length."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
