"""A predictor whose module is torch's, and the door to torch for the rows of a batch.

Only workers import it. How one is made from a model class is documented in `serve.model.contract`. Written for torch
1.12.1 to 2.13."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

import numpy
import torch

from serve.errors import InputError
from serve.model import answers, batch_independence, tensors, weights
from serve.model.answers import OUTPUTS, ArrayForm
from serve.model.inputs import Arrays, Inputs, one_for_none
from serve.model.outputs import ARRAYS, as_array, make_plain, to_arrays, to_host, to_lists, without_graph
from serve.model.request_memory import RequestMemory, own
from serve.system.resources import count_cores, threads_of_an_operation

if TYPE_CHECKING:
    from serve.checkpoint.manifest import Manifest, Stored
    from serve.model.request_state import Versions

# What Python and torch raise for values that are not what a conversion expects.
_UNFIT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)

_FREE: AbstractContextManager[Any] = contextlib.nullcontext()


def split(raw: Any, rows: Sequence[int]) -> list[Any]:
    """Take apart what a module gave for joined requests, by their numbers of rows; raises `ValueError` for others."""
    if isinstance(raw, ARRAYS):
        if not raw.ndim or raw.shape[0] != sum(rows):
            raise ValueError(f"the outputs: expected {sum(rows)} rows, found the shape {list(raw.shape)}")
        ends = itertools.accumulate(rows)
        return [raw[end - count : end] for end, count in zip(ends, rows)]
    if isinstance(raw, (tuple, list)):
        return list(zip(*(split(part, rows) for part in raw)))
    if isinstance(raw, Mapping):
        parts = {name: split(part, rows) for name, part in raw.items()}
        return [{name: part[place] for name, part in parts.items()} for place in range(len(rows))]
    if raw is None:
        return [None] * len(rows)
    raise ValueError(f"the outputs: expected tensors, found {type(raw).__name__}")


def epsilon_of(raw: Any) -> float:
    """Return the relative spacing of the coarsest floating-point numbers that a module gave; at least float32's."""
    parts = raw.values() if isinstance(raw, Mapping) else raw if isinstance(raw, (tuple, list)) else ()
    own = torch.finfo(raw.dtype).eps if isinstance(raw, torch.Tensor) and raw.is_floating_point() else 0.0
    return max(float(own), float(torch.finfo(torch.float32).eps), *map(epsilon_of, parts))


def count_rows(prepared: Any) -> int:
    """Count a request's rows, the first length that all its arrays share; 0 where they share none: nothing joins it."""
    if type(prepared) is numpy.ndarray:
        return int(prepared.shape[0]) if prepared.ndim else 0
    arrays = _arrays(prepared)
    lengths = {array.shape[0] if isinstance(array, ARRAYS) and array.ndim else 0 for array in arrays}
    return int(lengths.pop()) if len(lengths) == 1 else 0


def batch_key(prepared: Any) -> Hashable:
    """Return what two requests must have in common to be joined: names, types and the shapes of their rows."""
    if type(prepared) is numpy.ndarray:
        return prepared.dtype.char, prepared.shape[1:]
    names = tuple(prepared) if isinstance(prepared, Mapping) else type(prepared)
    return (names, *((array.dtype, tuple(array.shape[1:])) for array in _arrays(prepared)))


def stack(several: Sequence[Any]) -> Any:
    """Join the rows of several requests."""
    first = several[0]
    if isinstance(first, numpy.ndarray):
        return numpy.concatenate(several)
    if isinstance(first, torch.Tensor):
        return torch.cat(list(several))
    if isinstance(first, Mapping):
        return {name: stack([prepared[name] for prepared in several]) for name in first}
    return tuple(stack(arrays) for arrays in zip(*several))


def _arrays(prepared: Any) -> Sequence[Any]:
    if isinstance(prepared, ARRAYS):
        return (prepared,)
    if isinstance(prepared, Mapping):
        return tuple(prepared.values())
    return prepared if type(prepared) is tuple else ()  # a list or a named tuple is something else to a module


class _Limit(threading.local):
    """Whether a thread was given how many threads its operations may use: OpenMP and MKL keep that for each thread."""

    count = 0


_limit, _limited = 0, _Limit()


def limit_threads(stated: int, workers: int = 1) -> None:
    """Set how many threads one operation may use; 0: this worker's share of the cores. 1 is best for small batches."""
    global _limit
    _limit = stated or threads_of_an_operation(count_cores(), workers, os.environ)
    limit_this_thread()


def limit_this_thread() -> None:
    """Have the operations of the calling thread use as many threads as `limit_threads` was given."""
    if _limited.count != _limit:
        torch.set_num_threads(_limit)
        _limited.count = _limit


def without_gradients(unless_asked: bool = False) -> AbstractContextManager[None]:
    """Return the context in which a model answers, in a thread whose operations use no more threads than they may.

    `unless_asked`: in `torch.enable_grad()` there are gradients.
    """
    limit_this_thread()
    context: AbstractContextManager[None] = torch.no_grad() if unless_asked else torch.inference_mode()
    return context


def run_module(module: Any, prepared: Any) -> Any:
    """Call a module: a plain tuple as its arguments, a mapping by name, anything else as the only argument."""
    if isinstance(prepared, Mapping):
        return module(**prepared)
    # A named tuple, such as a PackedSequence, is one argument.
    return module(*prepared) if type(prepared) is tuple else module(prepared)


@dataclass(frozen=True)
class TorchPredictor:
    """A model that answers requests, each in three steps, so that several can share the one in the middle. Its inputs
    become what the module takes (`prepare…`), the module runs (`run`), and what it gives becomes the outputs
    (`postprocess…`). Inputs come as JSON has them, or as arrays by name; outputs go the same two ways. Only the middle
    step needs the weights. `prepared` and `raw` are what the module takes and gives; only this looks into them."""

    module: Any
    converter: Inputs
    run_module: Callable[[Any, Any], Any]
    tensors_to_outputs: Callable[[Any], object] | None
    image_to_inputs: Callable[[numpy.ndarray[Any, Any]], object] | None = None
    outputs: tuple[ArrayForm, ...] = ()
    can_batch: bool = False
    interface: Mapping[str, str] = field(default_factory=dict)  # of the example and of its answer, once it was tried
    example: object = None
    versions: Versions | None = None
    # One run and one conversion at a time, where requests leave something on the objects.
    turns: tuple[AbstractContextManager[Any], AbstractContextManager[Any]] = (_FREE, _FREE)
    origin: tuple[Stored, Manifest] | None = None  # the proven checkpoint, to make it again
    declared: answers.Declared = answers.NOTHING
    memory: RequestMemory = field(default_factory=RequestMemory)  # what it writes into, and gets copies of

    @property
    def expected_shape(self) -> tuple[int | None, ...]:
        """The shape of the only input, `None` standing for any length; empty where a shape means nothing."""
        return self.converter.shape

    @property
    def inputs(self) -> tuple[ArrayForm, ...]:
        """The inputs as arrays; none where the model only takes JSON."""
        return self.converter.forms

    def prepare(self, inputs: object) -> Any:
        """Turn inputs into what the module takes; raises `InputError`."""
        return self._prepare(self.converter.prepare, own(inputs) if self.memory.requests else inputs)

    def prepare_arrays(self, arrays: Arrays) -> Any:
        """Turn arrays by the names in `inputs`, texts as `str` objects, into what it takes; raises `InputError`."""
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
        """Turn an image, uint8 [height, width, 3] in RGB, into what the module takes; raises `InputError`."""
        to_inputs = self.image_to_inputs
        if to_inputs is None:
            raise InputError("the inputs: expected no image, as the model class has no image_to_inputs()")
        return self._prepare(lambda found: self.converter.prepare(to_inputs(found)), pixels.copy())

    def run(self, prepared: Any) -> Any:
        """Run the module; raises `InputError` for values that it has nothing for."""
        one = one_for_none(prepared)
        if one is not None:  # run one row and give none of it, as many modules cannot run without rows
            try:
                return split(self.run(one), [0, 1])[0]
            except Exception as error:  # the module's code may raise anything
                said = "the inputs: expected at least one row, as this model's outputs are not rows"
                raise InputError(said) from error
        memory = self.memory
        with self.turns[0]:
            # Outside of the context below: tensors of inference mode have no versions.
            placed = self.converter.place(own(prepared) if memory.inputs or memory.gradients else prepared)
            try:
                with without_gradients(memory.gradients):
                    raw = self.run_module(self.module, placed)
                    raw = without_graph(raw) if memory.gradients else raw
                    return own(raw) if memory.raw else raw
            except IndexError as error:  # an embedding without such a row: the module itself has proved that it works
                raise InputError(f"the inputs: expected values that the model knows, found {error}") from error
            except (AssertionError, RuntimeError) as error:
                if not weights.GUARD.match(str(error)):
                    raise
                raise InputError(f"the inputs: expected what the program was exported for, found {error}") from error
            finally:
                if placed is not prepared and not memory.inputs:
                    memory.note_version(placed)

    def postprocess(self, raw: Any) -> object:
        """Turn what the module gave into outputs that JSON can hold."""
        return to_lists(raw) if self.tensors_to_outputs is None else make_plain(self._convert(raw))

    def _convert(self, raw: Any) -> Any:
        assert self.tensors_to_outputs is not None
        with self.turns[1], without_gradients():
            return self.tensors_to_outputs(own(raw) if self.memory.outputs else raw)

    def postprocess_arrays(self, raw: Any) -> Arrays:
        """Turn what the module gave into arrays by name, texts as `str` objects; raises `ValueError`."""
        if self.tensors_to_outputs is None:
            return to_arrays(raw)
        outputs = self._convert(raw)
        named = outputs if isinstance(outputs, Mapping) else {OUTPUTS: outputs}
        arrays = {str(name): as_array(str(name), value) for name, value in named.items()}
        for name, array in arrays.items():
            if array.dtype.kind not in "fiubU":
                raise ValueError(f"{name}: expected numbers, truth values or texts, found {array.dtype}")
        return {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in arrays.items()}

    @property
    def is_declared(self) -> bool:
        """Whether a look at the tensors is not enough to judge an answer."""
        return self.tensors_to_outputs is not None or self.declared is not answers.NOTHING

    def find_fault(self, prepared: Any, raw: Any) -> tuple[str, str] | None:
        """Find what is wrong with an answer: the signal, and the reason in words."""
        if not self.is_declared and type(raw) is torch.Tensor and raw.device.type == "cpu" and not raw.requires_grad:
            with contextlib.suppress(TypeError, RuntimeError):  # bfloat16 and others, for which NumPy has nothing
                return None if answers.is_finite(raw.numpy()) else answers.NOT_FINITE
        answer = to_host(raw) if self.tensors_to_outputs is None else self.postprocess(raw)
        fault = answers.find_fault(answer, self.declared)
        if fault is not None or self.declared.healthy is None:
            return fault
        return answers.ask_healthy(self.declared, prepared, to_lists(answer))

    count_rows = staticmethod(count_rows)
    batch_key = staticmethod(batch_key)
    stack = staticmethod(stack)

    def compare_alone(self, prepared: Any, shared: Any, rows: Sequence[int], place: int) -> float:
        """Answer a request alone, and compare with what `split` gave for it in company: see `batch_independence`."""
        return batch_independence.compare_alone(self, prepared, shared, rows, place)

    def epsilon_of(self, raw: Any) -> float:
        """Return the relative spacing of the coarsest numbers in which the module computes and answers."""
        return max(tensors.epsilon_of(self.module), epsilon_of(raw))

    def split(self, raw: Any, counts: Sequence[int]) -> Sequence[Any]:
        """Take apart what the module gave for joined requests."""
        # What the model class turns into outputs itself stays what its module gave.
        return split(to_host(raw) if self.tensors_to_outputs is None else raw, counts)

    def predict(self, inputs: object) -> object:
        """Answer one request; raises `InputError`."""
        return self.postprocess(self.run(self.prepare(inputs)))

    def release(self) -> None:
        """Free the weights; no request uses them any more."""
        tensors.release(self.module)

    def _prepare(self, convert: Callable[[Any], Any], found: Any) -> Any:
        limit_this_thread()
        try:
            with self.turns[1]:
                taken = convert(found)
                return own(taken) if self.memory.taken else taken
        except _UNFIT as error:
            raise InputError(f"the inputs: {error}", self.expected_shape) from error
