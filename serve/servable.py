"""The contract of a model class, and the predictor that is made from it.

The settings name a class as `model = "module:Class"` and its keyword arguments as `[model_args]`. The least it has to
be is a `torch.nn.Module` with one attribute:

    class Classifier(torch.nn.Module):
        example_inputs = [[0.0] * 16]          # inputs as a request has them; used for warm-up and for the shape

        def __init__(self, hidden=32): ...
        def forward(self, rows): ...

A class may say more, each by a method of its own; a class that is no module says how to build one:

    build_module(self)              -> torch.nn.Module        the module whose state dict the checkpoints hold
    inputs_to_tensors(self, inputs) -> anything               a request's inputs to what the module takes; raises
                                                              ValueError for inputs that do not fit
    run_module(self, module, x)     -> anything               default: module(*x) for a tuple, module(x) otherwise
    tensors_to_outputs(self, y)     -> lists, numbers, texts  default: nested lists
    validate(self, model)           -> None or True           the last gate before a swap: `model.predict(inputs)`
                                                              answers, `model.module` holds the weights; raises, or
                                                              returns False, for a model that must not be served

With `format = "torchscript"` the module comes out of the checkpoint, and the class only needs the rest.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from serve import tensors
from serve.errors import InputError, ModelError
from serve.manifest import Manifest
from serve.settings import Settings
from serve.store import Stored


@dataclass(frozen=True)
class TorchPredictor:
    """A model that answers requests.

    Args:
        module: holds the weights.
        inputs_to_tensors: from a request's inputs to what the module takes.
        run_module: from there to what the module gives.
        tensors_to_outputs: from there to the answer's outputs.
        expected_shape: of the inputs, `None` standing for any length.
        interface: the form of the example and of its answer, once it was tried.
        origin: the proven checkpoint and its manifest, from which it can be made again.
    """

    module: Any
    inputs_to_tensors: Callable[[object], Any]
    run_module: Callable[[Any, Any], Any]
    tensors_to_outputs: Callable[[Any], object]
    expected_shape: Sequence[int | None]
    interface: Mapping[str, str] = field(default_factory=dict)
    origin: tuple[Stored, Manifest] | None = None

    def predict(self, inputs: object) -> object:
        """Answer one request.

        Args:
            inputs: as the request has them.

        Returns:
            The outputs, in the form that JSON can hold.

        Raises:
            InputError: the inputs do not fit the model.
        """
        with tensors.without_gradients():
            try:
                taken = self.inputs_to_tensors(inputs)
            except (ValueError, TypeError, LookupError) as error:
                raise InputError(f"the inputs: {error}", self.expected_shape) from error
            return self.tensors_to_outputs(self.run_module(self.module, taken))

    def release(self) -> None:
        """Free the weights; no request uses them any more."""
        tensors.release(self.module)


def import_class(settings: Settings) -> Callable[..., object]:
    """Import the model class.

    Args:
        settings: name it, and the directories where it is looked for.

    Raises:
        ModelError: it cannot be imported.
    """
    for directory in reversed(settings.python_path):
        if str(directory) not in sys.path:
            sys.path.insert(0, str(directory))
    module_name, _, class_name = settings.model.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise ModelError(
            f"{settings.model}: it cannot be imported: {type(error).__name__}: {error}",
            hint="name it as module:Class, and list the directory of the module in python_path",
        ) from error
    if not callable(found):
        raise ModelError(f"{settings.model}: expected a class, found {type(found).__name__}")
    constructor: Callable[..., object] = found
    return constructor


def build(settings: Settings, constructor: Callable[..., object]) -> Any:
    """Make an object of the model class.

    Args:
        settings: hold its arguments.
        constructor: the class.

    Raises:
        ModelError: it cannot be made, or lacks what every model class has.
    """
    arguments = settings.model_args
    try:
        servable: Any = constructor(**arguments)
    except Exception as error:  # the user's code may raise anything
        raise _unbuildable(settings, error) from error
    if not hasattr(servable, "example_inputs") and tensors.is_module(servable):
        raise ModelError(
            f"{settings.model}: expected the attribute example_inputs, found none",
            hint="for example: example_inputs = [[0.0] * 16]",
        )
    return servable


def build_module(settings: Settings, servable: Any) -> Any:
    """Make the module that is to hold the weights.

    Args:
        settings: name the class, for messages.
        servable: an object of the model class.

    Raises:
        ModelError: it cannot be made, or is none.
    """
    try:
        module = servable.build_module() if hasattr(servable, "build_module") else servable
    except Exception as error:  # the user's code may raise anything
        raise _unbuildable(settings, error) from error
    if not tensors.is_module(module):
        raise ModelError(
            f"{settings.model}: expected a torch.nn.Module, found {type(module).__name__}",
            hint="subclass torch.nn.Module, or add build_module()",
        )
    return module


def connect(settings: Settings, servable: Any, module: Any) -> TorchPredictor:
    """Make the predictor of a module that holds its weights.

    Args:
        settings: name the class and the device.
        servable: an object of the model class.
        module: on the device.

    Raises:
        ModelError: the example does not fit.
    """
    try:
        rows = tensors.InputTensors(servable.example_inputs, module, settings.device)
        shape: Sequence[int | None] = rows.shape
        convert = rows.convert
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        if not hasattr(servable, "inputs_to_tensors"):
            raise ModelError(
                f"{settings.model}: example_inputs: expected rows of numbers, found {error}",
                hint="give rows of numbers, or add inputs_to_tensors()",
            ) from error
        shape = ()
    return TorchPredictor(
        module=module,
        inputs_to_tensors=getattr(servable, "inputs_to_tensors", None) or convert,
        run_module=getattr(servable, "run_module", _run_module),
        tensors_to_outputs=getattr(servable, "tensors_to_outputs", tensors.to_lists),
        expected_shape=shape,
    )


def _unbuildable(settings: Settings, error: Exception) -> ModelError:
    arguments = dict(settings.model_args)
    return ModelError(f"{settings.model}: building it with {arguments} failed: {type(error).__name__}: {error}")


def _run_module(module: Any, taken: Any) -> Any:
    return module(*taken) if isinstance(taken, tuple) else module(taken)
