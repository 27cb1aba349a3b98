"""The contract of a model class, and the predictor that is made from it.

The least that a class has to be is a `torch.nn.Module` with the attribute `example_inputs`. What else it may state is
documented in `docs/reference/model-class.md`. With `format = "torchscript"` or `"export"` the module comes out of the
checkpoint, and the class only needs the rest."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Callable

from serve.errors import ModelError
from serve.model import tensors
from serve.model.answers import INPUTS, NOTHING, Declared
from serve.model.example import expand
from serve.model.inputs import CustomInputs, Inputs, InputTensor, NamedInputs
from serve.model.torch_predictor import TorchPredictor, run_module
from serve.settings.settings import Settings


def import_class(settings: Settings) -> Callable[..., object]:
    """Import the model class. Raises `ModelError`: it cannot be imported."""
    for directory in reversed(settings.python_path):
        if str(directory) not in sys.path:
            sys.path.insert(0, str(directory))
    module_name, _, class_name = settings.model.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the user's code, which may raise anything
        hint = None
        if isinstance(error, (ImportError, AttributeError)):
            hint = "name it as module:Class, and list the directory of the module in python_path"
        if isinstance(error, ModuleNotFoundError) and error.name != module_name.partition(".")[0]:
            hint = f"install {error.name} into the environment that serves"
        said = f"it cannot be imported: {type(error).__name__}: {error}"
        raise ModelError(f"{settings.model}: {said}", hint) from error
    if not callable(found):
        raise ModelError(f"{settings.model}: expected a class, found {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def construct(settings: Settings, constructor: Callable[..., object]) -> Any:
    """Make an object of the model class, with the example that the settings state; raises `ModelError`."""
    with _building(settings):
        servable: Any = constructor(**settings.model_args)
        if settings.example_inputs != "":
            servable.example_inputs = expand(settings.example_inputs)
    return servable


def build(settings: Settings, constructor: Callable[..., object]) -> Any:
    """Make an object of the model class; raises `ModelError`, also where it lacks what every one has."""
    servable = construct(settings, constructor)
    if not hasattr(servable, "example_inputs") and tensors.is_module(servable):
        hint = "for example: example_inputs = [[0.0] * 16]; `serve check` finds out what the class takes"
        raise ModelError(f"{settings.model}: expected the attribute example_inputs, found none", hint)
    return servable


def build_module(settings: Settings, servable: Any) -> Any:
    """Make the module that is to hold the weights. Raises `ModelError`: it cannot be made, or is not a module."""
    with _building(settings):
        module = servable.build_module() if hasattr(servable, "build_module") else servable
    if not tensors.is_module(module):
        hint = "subclass torch.nn.Module, or add build_module()"
        raise ModelError(f"{settings.model}: expected a torch.nn.Module, found {type(module).__name__}", hint)
    if tensors.is_lazy(module):
        _complete(settings, servable, module)
    return module


def _complete(settings: Settings, servable: Any, module: Any) -> None:
    """Let a module with lazy layers find its shapes, as its first input tells them."""
    was_training = module.training
    try:
        predictor = connect(settings, servable, module)
        with tensors.unrecorded():
            predictor.run_module(module.eval(), predictor.converter.place(predictor.prepare(servable.example_inputs)))
    except Exception as error:  # the user's code may raise anything
        said = f"its lazy layers cannot find their shapes from example_inputs: {type(error).__name__}: {error}"
        hint = "run the example through the module in __init__ or build_module()"
        raise ModelError(f"{settings.model}: {said}", hint) from error
    module.train(was_training)


def connect(settings: Settings, servable: Any, module: Any) -> TorchPredictor:
    """Make the predictor of a module that holds its weights. Raises `ModelError`: the example does not fit."""
    if hasattr(servable, "inputs_to_tensors"):
        axes = read_axes(settings, servable)
        converter: Inputs = CustomInputs(servable.inputs_to_tensors, servable.example_inputs, axes)
    else:
        converter = _read_example(settings, servable, module)
    return TorchPredictor(
        module=module, converter=converter, run_module=getattr(servable, "run_module", run_module),
        tensors_to_outputs=getattr(servable, "tensors_to_outputs", None),
        image_to_inputs=getattr(servable, "image_to_inputs", None), declared=_read_declared(settings, servable),
        example=servable.example_inputs,
    )  # fmt: skip


def _read_declared(settings: Settings, servable: Any) -> Declared:
    """Read what a model class declares of its answers."""
    stated, values = getattr(servable, "output_range", None), getattr(servable, "output_values", None)
    try:
        limits = None if stated is None else (float(stated[0]), float(stated[1]))
        values = None if values is None else frozenset(values)
    except (TypeError, ValueError, LookupError) as error:
        said = f"expected two numbers, and a set of texts or whole numbers, found {stated!r}, {values!r}"
        hint = "for example: output_range = (0.0, 1.0)"
        raise ModelError(f"{settings.model}: output_range, output_values: {said}", hint) from error
    declared = Declared(limits, values, getattr(servable, "healthy", None), getattr(servable, "agree", None))
    return NOTHING if declared == NOTHING else declared


def read_axes(settings: Settings, servable: Any) -> dict[str, dict[int, str]]:
    """Read which dimensions of which inputs may have any length. Raises `ModelError`: it is something else."""
    stated, example = getattr(servable, "dynamic_axes", {}), servable.example_inputs
    names = set(map(str, example)) if isinstance(example, Mapping) else {INPUTS}
    try:
        found = {
            name: dict(axes) if isinstance(axes, Mapping) else {axis: f"{name}.{axis}" for axis in axes}
            for name, axes in dict(stated).items()
        }
        if set(found) <= names and all(type(axis) is int and axis > 0 for axes in found.values() for axis in axes):
            return found
    except (TypeError, ValueError):
        pass
    said = f"expected dimensions after the first, of {', '.join(sorted(names))}, found {stated!r}"
    hint = f'for example: dynamic_axes = {{"{min(names)}": {{1: "length"}}}}'
    raise ModelError(f"{settings.model}: dynamic_axes: {said}", hint)


def lengthen(settings: Settings, servable: Any) -> object:
    """Return the example with other lengths where they are open; `None` where none is."""
    axes, example = read_axes(settings, servable), servable.example_inputs
    if not axes:
        return None
    if isinstance(example, Mapping):
        return {name: stretch(rows, axes.get(str(name), {})) for name, rows in example.items()}
    return stretch(example, axes[INPUTS])


def _read_example(settings: Settings, servable: Any, module: Any) -> Inputs:
    example, axes, device = servable.example_inputs, read_axes(settings, servable), settings.device
    try:
        named = example if isinstance(example, Mapping) else {INPUTS: example}
        stated = {str(name): rows for name, rows in named.items()}
        made = {name: InputTensor(rows, module, device, name, axes.get(name, {})) for name, rows in stated.items()}
        return NamedInputs(made) if isinstance(example, Mapping) else made[INPUTS]
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        hint = "give rows of numbers, or add inputs_to_tensors()"
        raise ModelError(f"{settings.model}: example_inputs: expected rows of numbers, found {error}", hint) from error


@contextlib.contextmanager
def _building(settings: Settings) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the user's code may raise anything
        said = f"building it with {dict(settings.model_args)} failed: {type(error).__name__}: {error}"
        hint = "state what it wants: model_args in the settings, --arg NAME=VALUE of serve run and check"
        raise ModelError(f"{settings.model}: {said}", hint if isinstance(error, TypeError) else None) from error


def stretch(value: Any, axes: Collection[int], depth: int = 0) -> Any:
    """Make inputs longer by one in some dimensions."""
    if not isinstance(value, (list, tuple)):
        return value
    parts = [stretch(part, axes, depth + 1) for part in value]
    return [*parts, parts[-1]] if depth in axes and parts else parts
