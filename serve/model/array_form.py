"""The inputs and outputs of a model as named arrays, for those who answer requests with it; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

# The name of the only input, and of the only output, of a model that names none.
INPUTS, OUTPUTS = "inputs", "outputs"
TEXT = "text"


@dataclass(frozen=True)
class ArrayForm:
    """One named input or output.

    Args:
        dtype: NumPy's name of the type of its elements, or `text`.
        shape: lengths, `None` standing for any.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
