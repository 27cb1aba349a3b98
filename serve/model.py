"""The contract of a model class, and how a proven checkpoint becomes a model that answers.

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

Only workers import this module. Reading tensors is `serve.tensors`; choosing what to load is `serve.checkpoint`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

from serve import tensors
from serve.errors import CheckpointError, InputError, ModelError
from serve.formats import SAFETENSORS, detect_format, read_safetensors_interface, require_interface
from serve.manifest import Manifest
from serve.settings import Settings
from serve.store import Stored

# The first run pays for lazily created kernels and buffers, the second shows that they are there.
_WARM_UP_RUNS = 2


@dataclass(frozen=True)
class TorchPredictor:
    """A model that answers requests.

    Args:
        module: holds the weights.
        inputs_to_tensors: from a request's inputs to what the module takes.
        run_module: from there to what the module gives.
        tensors_to_outputs: from there to the answer's outputs.
        expected_shape: of the inputs, `None` standing for any length.
    """

    module: Any
    inputs_to_tensors: Callable[[object], Any]
    run_module: Callable[[Any, Any], Any]
    tensors_to_outputs: Callable[[Any], object]
    expected_shape: Sequence[int | None]

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


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be swapped in.

    Args:
        predictor: answers requests.
        format: of the checkpoint.
        load_s: seconds for building the module and attaching the weights.
        warm_up_s: seconds for answering the example.
    """

    predictor: TorchPredictor
    format: str
    load_s: float
    warm_up_s: float


class ModelLoader:
    """Makes models from checkpoints, in one worker.

    Args:
        settings: name the class, its arguments, the device and the allow-list.

    Raises:
        ModelError: the class cannot be imported.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        tensors.limit_threads(settings.torch_threads)
        self._class = _import_class(settings)

    def load(self, stored: Stored, manifest: Manifest) -> Loaded:
        """Load, check and warm up one model.

        Args:
            stored: the proven checkpoint.
            manifest: what its marker states.

        Returns:
            The model, ready to answer.

        Raises:
            CheckpointError: the checkpoint is at fault.
            ModelError: the model class is at fault.
            OSError: the store cannot be read.
        """
        started_s = time.monotonic()
        format = detect_format(stored.path)
        if manifest.format not in (None, format):
            raise CheckpointError("format", f"the format: expected {manifest.format}, found {format}")
        servable, module = self._build()
        state = self._read_fitting(stored, format, module)
        tensors.require_finite(state, module)
        tensors.attach(module, state, self._settings.device)
        predictor = self._connect(servable, module)
        loaded_s = time.monotonic()
        self._warm_up(predictor, servable.example_inputs)
        return Loaded(predictor, format, loaded_s - started_s, time.monotonic() - loaded_s)

    def _build(self) -> tuple[Any, Any]:
        arguments = self._settings.model_args
        try:
            servable: Any = self._class(**arguments)
            module = servable.build_module() if hasattr(servable, "build_module") else servable
        except Exception as error:  # the user's code may raise anything
            raise ModelError(
                f"{self._settings.model}: building it with {dict(arguments)} failed: {type(error).__name__}: {error}"
            ) from error
        if not tensors.is_module(module):
            raise ModelError(
                f"{self._settings.model}: expected a torch.nn.Module, found {type(module).__name__}",
                hint="subclass torch.nn.Module, or add build_module()",
            )
        if not hasattr(servable, "example_inputs"):
            raise ModelError(
                f"{self._settings.model}: expected the attribute example_inputs, found none",
                hint="for example: example_inputs = [[0.0] * 16]",
            )
        return servable, module

    def _read_fitting(self, stored: Stored, format: str, module: Any) -> tensors.State:
        expected = tensors.interface_of(module.state_dict())
        if format == SAFETENSORS:
            # The header is enough to refuse another architecture before gigabytes of weights are read.
            require_interface(expected, read_safetensors_interface(stored.path))
        is_trusted = stored.sha256 in self._settings.allowed_pickles
        state = tensors.read_state(stored.path, format, is_trusted)
        require_interface(expected, tensors.interface_of(state))
        return state

    def _connect(self, servable: Any, module: Any) -> TorchPredictor:
        try:
            rows = tensors.InputTensors(servable.example_inputs, module, self._settings.device)
            shape: Sequence[int | None] = rows.shape
            convert = rows.convert
        except (TypeError, ValueError, RuntimeError) as error:
            if not hasattr(servable, "inputs_to_tensors"):
                raise ModelError(
                    f"{self._settings.model}: example_inputs: expected rows of numbers, found {error}",
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

    def _warm_up(self, predictor: TorchPredictor, example: object) -> None:
        try:
            for _ in range(_WARM_UP_RUNS):
                json.dumps(predictor.predict(example), allow_nan=False)
        except Exception as error:  # the user's code may raise anything
            raise CheckpointError(
                "warm-up", f"the warm-up with example_inputs failed: {type(error).__name__}: {error}"
            ) from error


def _run_module(module: Any, taken: Any) -> Any:
    return module(*taken) if isinstance(taken, tuple) else module(taken)


def _import_class(settings: Settings) -> Callable[..., object]:
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
