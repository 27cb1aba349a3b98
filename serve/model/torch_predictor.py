"""A predictor whose module is torch's.

Only workers import it. How one is made from a model class is documented in `serve.model.contract`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Protocol

from serve.checkpoint.manifest import Manifest
from serve.checkpoint.stored import Stored
from serve.errors import InputError
from serve.model import batch_independence, outputs, tensors, weights
from serve.model import batch_rows as rows
from serve.model.inputs import one_for_none
from serve.model.predictor import ArrayForm
from serve.model.tensor_versions import Versions

if TYPE_CHECKING:
    import numpy

    Arrays = Mapping[str, numpy.ndarray[Any, Any]]


# What Python and torch raise for values that are not what a conversion expects.
_UNFIT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)

_FREE: AbstractContextManager[Any] = contextlib.nullcontext()


class Inputs(Protocol):
    """How the inputs of a request become what the module takes."""

    shape: tuple[int | None, ...]
    forms: tuple[ArrayForm, ...]
    is_plain: bool

    def prepare(self, inputs: object) -> Any:
        """Convert inputs as JSON has them."""

    def prepare_arrays(self, arrays: Arrays) -> Any:
        """Convert arrays by name."""

    def place(self, prepared: Any) -> Any:
        """Turn what a request was prepared as, or several joined, into what the module takes."""


@dataclass(frozen=True)
class TorchPredictor:
    """A model that answers requests; what its methods do is documented in `serve.model.predictor`.

    Args:
        can_batch: whether rows of several requests may share one run, once that was tried.
        interface: the form of the example and of its answer, once it was tried.
        turns: entered by a run and by a conversion: one at a time each, where requests leave something on the objects.
        origin: the proven checkpoint and its manifest, from which it can be made again.
    """

    module: Any
    converter: Inputs
    run_module: Callable[[Any, Any], Any]
    tensors_to_outputs: Callable[[Any], object] | None
    image_to_inputs: Callable[[numpy.ndarray[Any, Any]], object] | None = None
    outputs: tuple[ArrayForm, ...] = ()
    can_batch: bool = False
    interface: Mapping[str, str] = field(default_factory=dict)
    versions: Versions | None = None
    turns: tuple[AbstractContextManager[Any], AbstractContextManager[Any]] = (_FREE, _FREE)
    origin: tuple[Stored, Manifest] | None = None

    @property
    def expected_shape(self) -> tuple[int | None, ...]:
        """The shape of the only input, `None` standing for any length."""
        return self.converter.shape

    @property
    def inputs(self) -> tuple[ArrayForm, ...]:
        """The inputs as arrays."""
        return self.converter.forms

    def prepare(self, inputs: object) -> Any:
        """Turn inputs into what the module takes; raises `InputError`."""
        return self._prepare(self.converter.prepare, inputs)

    def prepare_arrays(self, arrays: Arrays) -> Any:
        """Turn arrays into what the module takes; raises `InputError`."""
        return self._prepare(self.converter.prepare_arrays, arrays)

    @property
    def joins_arrays(self) -> bool:
        """Whether the module takes one tensor as it came, and nothing of the model class makes outputs of its own."""
        return self.can_batch and self.converter.is_plain and self.tensors_to_outputs is None

    @property
    def takes_images(self) -> bool:
        """Whether the model class shows how an image becomes inputs."""
        return self.image_to_inputs is not None

    def prepare_image(self, pixels: numpy.ndarray[Any, Any]) -> Any:
        """Turn an image into what the module takes; raises `InputError`."""
        to_inputs = self.image_to_inputs
        if to_inputs is None:
            raise InputError("the inputs: expected no image, as the model class has no image_to_inputs()")
        return self._prepare(lambda found: self.converter.prepare(to_inputs(found)), pixels)

    def run(self, prepared: Any) -> Any:
        """Run the module; raises `InputError` for values that it has nothing for."""
        one = one_for_none(prepared)
        if one is not None:
            return self._run_empty(one)
        with self.turns[0], tensors.without_gradients():
            try:
                return self.run_module(self.module, self.converter.place(prepared))
            except IndexError as error:  # an embedding without such a row: the module itself has proved that it works
                raise InputError(f"the inputs: expected values that the model knows, found {error}") from error
            except (AssertionError, RuntimeError) as error:
                if not weights.is_guard(error):
                    raise
                raise InputError(f"the inputs: expected what the program was exported for, found {error}") from error

    def _run_empty(self, one: Any) -> Any:
        """Run one row and give none of it, as many modules cannot run without rows."""
        try:
            return outputs.split(self.run(one), [0, 1])[0]
        except Exception as error:  # the module's code may raise anything
            raise InputError("the inputs: expected at least one row, as this model's outputs are not rows") from error

    def postprocess(self, raw: Any) -> object:
        """Turn what the module gave into outputs that JSON can hold."""
        if self.tensors_to_outputs is None:
            return outputs.to_lists(raw)
        with self.turns[1], tensors.without_gradients():
            return self.tensors_to_outputs(raw)

    def postprocess_arrays(self, raw: Any) -> Arrays:
        """Turn what the module gave into arrays by name; raises `ValueError`."""
        if self.tensors_to_outputs is None:
            return outputs.to_arrays(raw)
        return outputs.plain_to_arrays(self.postprocess(raw))

    def count_rows(self, prepared: Any) -> int:
        """Count the rows that a request has."""
        return rows.count_rows(prepared)

    def batch_key(self, prepared: Any) -> Hashable:
        """Return what two requests must have in common to be joined."""
        return rows.batch_key(prepared)

    def stack(self, several: Sequence[Any]) -> Any:
        """Join what several requests gave."""
        return rows.stack(several)

    def compare_alone(self, prepared: Any, shared: Any, rows: Sequence[int], place: int) -> float:
        """Answer a request alone, and compare; 0 where only rounding differs."""
        return batch_independence.compare_alone(self, prepared, shared, rows, place)

    def epsilon_of(self, raw: Any) -> float:
        """Return the relative spacing of the coarsest numbers in which the module computes and answers."""
        return max(tensors.epsilon_of(self.module), outputs.epsilon_of(raw))

    def split(self, raw: Any, counts: Sequence[int]) -> Sequence[Any]:
        """Take apart what the module gave for joined requests."""
        # What the model class turns into outputs itself stays what its module gave.
        return outputs.split(outputs.to_host(raw) if self.tensors_to_outputs is None else raw, counts)

    def predict(self, inputs: object) -> object:
        """Answer one request; raises `InputError`."""
        return self.postprocess(self.run(self.prepare(inputs)))

    def release(self) -> None:
        """Free the weights; no request uses them any more."""
        tensors.release(self.module)

    def _prepare(self, convert: Callable[[Any], Any], found: Any) -> Any:
        tensors.limit_this_thread()
        try:
            with self.turns[1]:
                return convert(found)
        except _UNFIT as error:
            raise InputError(f"the inputs: {error}", self.expected_shape) from error
