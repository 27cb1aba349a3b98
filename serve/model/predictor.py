"""The interface of a loaded model to those who answer requests with it.

A request is answered in three steps, so that several requests can share the one in the middle: its inputs become what
the module takes, the module runs, and what it gives becomes the outputs. Inputs come as JSON has them, or as arrays by
name; outputs go the same two ways. Only the middle step needs the weights.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy

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


class Predictor(Protocol):
    """A loaded model, as far as a request is concerned.

    `prepared` and `raw` are what its module takes and gives; only the predictor looks into them.
    """

    @property
    def expected_shape(self) -> Sequence[int | None]:
        """The shape of the only input, `None` standing for any length; empty where a shape means nothing."""

    @property
    def inputs(self) -> Sequence[ArrayForm]:
        """The inputs as arrays; none where the model only takes JSON."""

    @property
    def outputs(self) -> Sequence[ArrayForm]:
        """The outputs as arrays; none where they are not known, or only fit into JSON."""

    @property
    def example(self) -> object:
        """Inputs as a request has them."""

    @property
    def can_batch(self) -> bool:
        """Whether rows of several requests may share one run."""

    @property
    def joins_arrays(self) -> bool:
        """Whether arrays of several requests may be prepared as one, and outputs of several be written from one."""

    @property
    def takes_images(self) -> bool:
        """Whether the model class shows how an image becomes inputs."""

    def prepare(self, inputs: object) -> Any:
        """Turn inputs into what the module takes."""

    def prepare_arrays(self, arrays: Mapping[str, numpy.ndarray[Any, Any]]) -> Any:
        """Turn arrays by the names in `inputs` into what the module takes; texts are arrays of `str` objects."""

    def prepare_image(self, pixels: numpy.ndarray[Any, Any]) -> Any:
        """Turn an image into what the module takes; only for a model that `takes_images`.

        Args:
            pixels: red, green and blue, from 0 to 255.

        Shapes:
            pixels: [height, width, 3] of uint8.
        """

    def run(self, prepared: Any) -> Any:
        """Run the module."""

    def postprocess(self, raw: Any) -> object:
        """Turn what the module gave into outputs that JSON can hold."""

    def postprocess_arrays(self, raw: Any) -> Mapping[str, numpy.ndarray[Any, Any]]:
        """Turn what the module gave into arrays by name. Raises `ValueError`: the outputs are no arrays."""

    def count_rows(self, prepared: Any) -> int:
        """Count the rows that a request has; 0 for one that nothing can be joined to."""

    def batch_key(self, prepared: Any) -> Hashable:
        """Return what two requests must have in common to be joined; only for a model that `can_batch`."""

    def stack(self, several: Sequence[Any]) -> Any:
        """Join what several requests gave to one thing that the module takes; only for a model that `can_batch`."""

    def compare_alone(self, prepared: Any, shared: Any, rows: Sequence[int], place: int) -> float:
        """Answer a request alone, and compare.

        Args:
            shared: what `split` gave for it, when it ran with others.

        Returns:
            How far the two are from each other, as a share of the largest number; 0 where only rounding differs.
        """

    def epsilon_of(self, raw: Any) -> float:
        """Return the relative spacing of the coarsest numbers in which the module computes and answers."""

    def split(self, raw: Any, rows: Sequence[int]) -> Sequence[Any]:
        """Take apart what the module gave for joined requests."""

    def predict(self, inputs: object) -> object:
        """Answer one request: `prepare`, `run` and `postprocess`."""
