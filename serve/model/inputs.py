"""The door to torch for what comes in: from the inputs of a request to what a module takes.

What a request gives stays in NumPy's hands until the module runs: joining the rows of small requests, and looking for
NaN in them, takes torch several times as long. Lists become arrays by C loops only (`read_rows`), where torch takes
five times as long for ten numbers. Only workers import it. Written for torch 1.12.1 to 2.13."""

from __future__ import annotations

import itertools
import warnings
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NoReturn, Union

import numpy
import torch

from serve.errors import InputError
from serve.model.answers import INPUTS, TEXT, ArrayForm

# The arrays are views of a request's body: what writes into its input is found, and gets copies (`request_memory`).
warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writ", category=UserWarning)

Arrays = Mapping[str, "numpy.ndarray[Any, Any]"]


class InputTensor:
    """Turns rows of numbers into a tensor of the example's kind, in the precision of the module's parameters."""

    def __init__(self, example: object, module: Any, device: str, name: str, axes: Axes) -> None:
        self._device, self.axes, self._name = device, axes, name
        tensor = torch.tensor(example)
        self._dtype = tensor.dtype
        if tensor.is_floating_point():
            # Types of eight bits and less are for keeping weights, not for computing.
            dtypes = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
            floating = (dtype for dtype in dtypes if torch.empty(0, dtype=dtype).element_size() > 1)
            self._dtype = next(floating, tensor.dtype)
        self.shape = open_shape(tensor.shape, axes)
        self._row_shape = self.shape[1:]
        torch_name = str(self._dtype).rpartition(".")[2]
        self._dtype_name = "float32" if torch_name == "bfloat16" else torch_name
        self.forms: tuple[ArrayForm, ...] = (ArrayForm(name, self._dtype_name, self.shape),)
        self._array_dtype = numpy.dtype(self._dtype_name)
        self._is_floating = self._dtype.is_floating_point
        self.is_plain = torch_name == self._dtype_name  # NumPy has no bfloat16: those become tensors at once

    def prepare(self, inputs: object) -> Any:
        """Convert inputs of the example's shape, with any number of rows; raises `InputError` for others."""
        array = read_rows(inputs, self._dtype_name, self._row_shape) if self.is_plain else None
        if array is not None:
            if self._is_floating:
                self._require_finite(array)
            return array
        if isinstance(inputs, list) and not inputs:  # no rows say nothing of their shape
            return self.prepare_array(numpy.empty((0, *(length or 1 for length in self._row_shape)), self._array_dtype))
        try:
            tensor = torch.tensor(inputs, dtype=self._dtype if self._is_floating else None)
        except (TypeError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
            raise InputError(f"the {self._name}: expected rows of numbers, found {error}", self.shape) from error
        if not self._is_floating and tensor.is_floating_point():
            raise InputError(f"the {self._name}: expected whole numbers, found fractions", self.shape)
        self._require_shape(tuple(tensor.shape))
        found = tensor.to(self._dtype)
        is_right = torch.isfinite(found) if self._is_floating else found.to(tensor.dtype) == tensor
        if not bool(is_right.all()):
            self._refuse_values()
        return found.numpy() if self.is_plain else found

    def prepare_arrays(self, arrays: Arrays) -> Any:
        """Convert the only array of several by name; raises `InputError` where they do not fit."""
        return self.prepare_array(_pick(arrays, self.forms)[0])

    def prepare_array(self, array: numpy.ndarray[Any, Any]) -> Any:
        """Convert an array, without a copy where its type is the module's; raises `InputError` for others."""
        if array.dtype is not self._array_dtype and array.dtype != self._array_dtype:
            if not numpy.can_cast(array.dtype, self._array_dtype, "same_kind"):
                raise InputError(f"the {self._name}: expected {self._dtype_name}, found {array.dtype}", self.shape)
            # torch has no unsigned types beyond 8 bits, and no other byte order.
            found, array = array, array.astype(self._array_dtype)
            if not self._is_floating and not numpy.array_equal(found, array):
                self._refuse_values()
        self._require_shape(array.shape)
        if self._is_floating:
            self._require_finite(array)
        return array if self.is_plain else torch.from_numpy(numpy.ascontiguousarray(array)).to(self._dtype)

    def place(self, prepared: Any) -> Any:
        """Bring what a request was prepared as, or several joined, to where the module computes."""
        tensor = torch.from_numpy(numpy.ascontiguousarray(prepared)) if self.is_plain else prepared
        return tensor if self._device == "cpu" else tensor.to(self._device)

    def _require_shape(self, shape: tuple[int, ...]) -> None:
        is_right = len(shape) == len(self.shape) and all(
            (found > 0 or axis == 0) if length is None else found == length
            for axis, (found, length) in enumerate(zip(shape, self.shape))
        )
        if not is_right:
            expected = "[" + ", ".join("any" if length is None else str(length) for length in self.shape) + "]"
            raise InputError(f"the {self._name}: expected the shape {expected}, found {list(shape)}", self.shape)

    def _require_finite(self, array: numpy.ndarray[Any, Any]) -> None:
        if not numpy.logical_and.reduce(numpy.isfinite(array), axis=None):
            self._refuse_values()

    def _refuse_values(self) -> NoReturn:
        said = f"the {self._name}: expected numbers that fit {self._dtype}, found larger ones or NaN"
        raise InputError(said, self.shape)


class NamedInputs:
    """The inputs of a module that takes several tensors by name."""

    is_plain = False

    def __init__(self, tensors: Mapping[str, InputTensor]) -> None:
        self._tensors = tensors
        self.shape: tuple[int | None, ...] = ()
        self.forms = tuple(form for tensor in tensors.values() for form in tensor.forms)
        self._lengths: dict[str, list[tuple[str, int]]] = {}
        for name, tensor in tensors.items():
            for axis, length in tensor.axes.items():
                self._lengths.setdefault(length, []).append((name, axis))

    def prepare(self, inputs: object) -> Any:
        """Convert inputs as JSON has them; raises `InputError` where they do not fit."""
        if not isinstance(inputs, Mapping) or set(inputs) != set(self._tensors):
            raise InputError(f"the inputs: expected an object with {', '.join(self._tensors)}")
        return self._same_rows({name: tensor.prepare(inputs[name]) for name, tensor in self._tensors.items()})

    def prepare_arrays(self, arrays: Arrays) -> Any:
        """Convert arrays by name; raises `InputError` where they do not fit."""
        picked = dict(zip(self._tensors, _pick(arrays, self.forms)))
        return self._same_rows({name: self._tensors[name].prepare_array(array) for name, array in picked.items()})

    def place(self, prepared: Any) -> Any:
        """Make tensors of what was prepared."""
        return {name: self._tensors[name].place(part) for name, part in prepared.items()}

    def _same_rows(self, prepared: dict[str, Any]) -> dict[str, Any]:
        rows = {name: tensor.shape[0] for name, tensor in prepared.items()}
        if len(set(rows.values())) > 1:
            raise InputError(f"the inputs: expected as many rows in each, found {rows}")
        for length, places in self._lengths.items():
            found = {name: prepared[name].shape[axis] for name, axis in places}
            if len(set(found.values())) > 1:
                raise InputError(f"the inputs: expected the same {length} in each, found {found}")
        return prepared


class CustomInputs:
    """The inputs of a model class that converts them itself; arrays that stand for them have the example's form."""

    is_plain = False

    def __init__(self, convert: Callable[[object], Any], example: object, axes: Mapping[str, Axes]) -> None:
        self._convert = convert
        self.shape: tuple[int | None, ...] = ()
        self._is_named = isinstance(example, Mapping)
        named = example if isinstance(example, Mapping) else {INPUTS: example}
        forms = [_form_of(str(name), value, axes.get(str(name), {})) for name, value in named.items()]
        self.forms = tuple(form for form in forms if form is not None) if None not in forms else ()

    def prepare(self, inputs: object) -> Any:
        """Convert inputs as JSON has them; raises what the model class raises."""
        with torch.no_grad():  # what inference mode makes can have no gradient, which the module may compute
            return self._convert(inputs)

    def prepare_arrays(self, arrays: Arrays) -> Any:
        """Convert arrays by name; raises `InputError` where they do not fit, or what the model class raises."""
        if not self.forms:
            raise InputError("the inputs: expected JSON, as this model's inputs are not arrays")
        lists = [array.tolist() for array in _pick(arrays, self.forms)]
        named = dict(zip((form.name for form in self.forms), lists))
        return self.prepare(named if self._is_named else lists[0])

    def place(self, prepared: Any) -> Any:
        """Return what was prepared: the model class has made it."""
        return prepared


Inputs = Union[InputTensor, NamedInputs, CustomInputs]  # how the inputs of a request become what the module takes


def one_for_none(prepared: Any) -> Any | None:
    """Return one row of zeros in the place of no rows; `None` for what has rows, or is no array."""
    if isinstance(prepared, Mapping):
        ones = {name: one_for_none(array) for name, array in prepared.items()}
        return None if not ones or any(one is None for one in ones.values()) else ones
    if not isinstance(prepared, (numpy.ndarray, torch.Tensor)) or not prepared.ndim or prepared.shape[0]:
        return None
    shape = (1, *prepared.shape[1:])
    return numpy.zeros(shape, prepared.dtype) if isinstance(prepared, numpy.ndarray) else prepared.new_zeros(shape)


def _pick(arrays: Arrays, forms: Sequence[ArrayForm]) -> list[numpy.ndarray[Any, Any]]:
    if len(arrays) != len(forms) or not all(form.name in arrays for form in forms):
        found = ", ".join(sorted(arrays)) or "none"
        raise InputError(f"the inputs: expected {', '.join(form.name for form in forms)}, found {found}")
    return [arrays[form.name] for form in forms]


# The standard library's array refuses texts and what overflows a whole number, where NumPy would read or wrap them.
_CODES = {"float32": "f", "float64": "d", "int64": "q"}


def read_rows(inputs: object, dtype: str, row_shape: Sequence[int | None]) -> numpy.ndarray[Any, Any] | None:
    """Make an array of rows of numbers, infinite where the type is too small; `None` for all that it does not know."""
    code = _CODES.get(dtype)
    if code is None or type(inputs) is not list or not inputs:
        return None
    level: list[Any] = inputs
    shape = [len(inputs)]
    for length in row_shape:
        if set(map(type, level)) != {list}:
            return None
        shape.append(len(level[0]) if length is None else length)
        if set(map(len, level)) != {shape[-1]} or (not shape[-1] and length is None):
            return None
        level = level[0] if len(level) == 1 else list(itertools.chain.from_iterable(level))
    if not level:
        return None
    try:
        flat = array(code, level)
    except (TypeError, OverflowError):
        return None
    return numpy.frombuffer(flat, dtype).reshape(shape)


_PLAIN = {"f": "float32", "i": "int64", "u": "uint8", "b": "bool", "U": TEXT}
Axes = Mapping[int, str]  # the dimensions of an input that may have any length, with the names of those lengths


def _form_of(name: str, value: object, axes: Axes) -> ArrayForm | None:
    """Tell the form of the array, with any number of rows, that can stand for a value of JSON; `None` for no array."""
    try:
        array = numpy.array(value)
    except ValueError:  # lists of different lengths
        return None
    if array.dtype.kind not in _PLAIN or not array.shape:
        return None
    return ArrayForm(name, _PLAIN[array.dtype.kind], open_shape(array.shape, axes))


def open_shape(shape: Sequence[int], axes: Axes) -> tuple[int | None, ...]:
    """Return a shape in which the number of rows and the lengths of `axes` are open."""
    return tuple(None if axis == 0 or axis in axes else int(length) for axis, length in enumerate(shape))
