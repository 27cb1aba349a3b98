"""The door to torch: nothing else in `serve` imports it, and only workers import this module.

Reads state dicts, compares and attaches weights, and turns requests into tensors and back. Written for torch 1.12.1 to
2.13; what a version lacks is asked of torch itself, not of its version number.
"""

from __future__ import annotations

import inspect
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from serve.errors import CheckpointError, InputError
from serve.formats import SAFETENSORS, TensorSpec

_SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# Under these keys training scripts keep the weights beside the optimizer's state.
_WRAPPERS = ("state_dict", "model_state_dict")
# Bounds the temporary memory of the finite check.
_CHECK_ELEMENTS = 16 * 1024 * 1024

State = Mapping[str, Any]


def limit_threads(count: int) -> None:
    """Set how many threads one operation may use in this process.

    Args:
        count: 1 is the quickest for small batches, where starting threads costs more than they save.
    """
    torch.set_num_threads(count)


def is_module(thing: object) -> bool:
    """Whether something is a `torch.nn.Module`."""
    return isinstance(thing, torch.nn.Module)


def without_gradients() -> AbstractContextManager[None]:
    """Return the context in which a model answers."""
    context: AbstractContextManager[None] = torch.inference_mode()
    return context


def read_state(path: Path, format: str, is_trusted: bool) -> State:
    """Read a state dict from a file that nobody writes to.

    Args:
        path: the read-only copy in the store; safetensors and, where torch can, torch.save files stay mapped from it.
        format: `"safetensors"` or `"torch"`.
        is_trusted: whether the file's sha256 is on the allow-list, so that a full unpickling may run its code.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        CheckpointError: the file is damaged, is not a state dict, or would need an unpickling that is not allowed.
    """
    if format == SAFETENSORS:
        try:
            loaded: object = safetensors.torch.load_file(str(path))
        except (ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise CheckpointError("damaged", f"safetensors cannot read it: {error}") from error
    else:
        loaded = _unpickle(path, is_trusted)
    return _require_state(loaded)


def _unpickle(path: Path, is_trusted: bool) -> object:
    options: dict[str, object] = {"map_location": "cpu"}
    accepted = inspect.signature(torch.load).parameters
    if "weights_only" in accepted:
        options["weights_only"] = not is_trusted
    elif not is_trusted:
        raise CheckpointError(
            "pickle",
            f"torch {torch.__version__} cannot read a pickle without running its code, and its sha256 is not allowed",
            hint="save safetensors, or add the sha256 to allowed_pickles",
        )
    if "mmap" in accepted and zipfile.is_zipfile(path):
        options["mmap"] = True
    try:
        loaded: object = torch.load(str(path), **options)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or hostile pickle provokes
        first_line = (str(error).splitlines() or [""])[0]
        raise CheckpointError("damaged", f"torch.load cannot read it: {type(error).__name__}: {first_line}") from error
    return loaded


def _require_state(loaded: object) -> State:
    state = loaded
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            state = loaded[key]
            break
    if not isinstance(state, Mapping):
        raise CheckpointError("content", f"expected a state dict, found {type(state).__name__}")
    strangers = sorted(str(name) for name, value in state.items() if not isinstance(value, torch.Tensor))
    if strangers:
        raise CheckpointError("content", f"expected only tensors in the state dict, found others: {strangers[:5]}")
    return state


def interface_of(state: State) -> dict[str, TensorSpec]:
    """Return names, dtypes and shapes of a state dict.

    Args:
        state: tensors by name.
    """
    return {
        name: TensorSpec(_SAFETENSORS_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
        for name, tensor in state.items()
    }


def require_finite(state: State, module: Any) -> None:
    """Refuse weights that can only give useless answers.

    A buffer may hold infinities, as the mask of an attention does; a parameter may not, and neither may hold NaN.

    Args:
        state: tensors by name.
        module: tells which of them are parameters.

    Raises:
        CheckpointError: naming the first tensor at fault.
    """
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in state.items():
        for chunk in _floating_chunks(tensor):
            is_bad = not torch.isfinite(chunk).all() if name in parameters else torch.isnan(chunk).any()
            if is_bad:
                raise CheckpointError("finite", f"{name}: expected finite weights, found NaN or infinity")


def _floating_chunks(tensor: Any) -> Iterator[Any]:
    if tensor.is_floating_point():
        yield from tensor.reshape(-1).split(_CHECK_ELEMENTS)


def attach(module: Any, state: State, device: str) -> None:
    """Give a module its weights, without a copy where torch can.

    Args:
        module: of the same interface as the state.
        state: tensors by name; the module may keep them.
        device: where the module is to compute.
    """
    if "assign" in inspect.signature(module.load_state_dict).parameters:
        module.load_state_dict(state, assign=True)
    else:
        module.load_state_dict(state)
    module.to(device)
    module.eval()
    module.requires_grad_(False)


def release(module: Any) -> None:
    """Free a module's weights one by one, so that no other thread waits long for the interpreter lock.

    Args:
        module: that nobody uses any more.
    """
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name in list(held):
                held[name] = None
                time.sleep(0)  # a thread that answers a request goes first
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class InputTensors:
    """Turns rows of numbers into a tensor of the kind that the example has.

    Args:
        example: inputs as a request has them.
        module: its first floating-point parameter tells the precision.
        device: where the tensors go.
    """

    def __init__(self, example: object, module: Any, device: str) -> None:
        self._device = device
        tensor = torch.tensor(example)
        self._dtype = tensor.dtype
        if tensor.is_floating_point():
            floating = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
            self._dtype = next(floating, tensor.dtype)
        # The first dimension is the rows, of which a request may have any number.
        self.shape: tuple[int | None, ...] = (None, *tensor.shape[1:])

    def convert(self, inputs: object) -> Any:
        """Convert the inputs of one request.

        Args:
            inputs: rows of numbers.

        Returns:
            A tensor on the device.

        Raises:
            InputError: they are no numbers, not rectangular, not finite, or of another shape.

        Shapes:
            As the example's, with any number of rows.
        """
        is_floating = self._dtype.is_floating_point
        try:
            tensor = torch.tensor(inputs, dtype=self._dtype if is_floating else None)
        except (TypeError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
            raise InputError(f"the inputs: expected rows of numbers, found {error}", self.shape) from error
        if tensor.dim() != len(self.shape) or tuple(tensor.shape[1:]) != self.shape[1:] or not tensor.shape[0]:
            raise InputError(
                f"the inputs: expected the shape {format_shape(self.shape)}, found {list(tensor.shape)}", self.shape
            )
        if not is_floating and tensor.is_floating_point():
            raise InputError("the inputs: expected whole numbers, found fractions", self.shape)
        if is_floating and not torch.isfinite(tensor).all():
            raise InputError(f"the inputs: expected numbers that fit {self._dtype}, found larger ones", self.shape)
        return tensor.to(device=self._device, dtype=self._dtype)


def format_shape(shape: Sequence[int | None]) -> str:
    """Write a shape for a message.

    Args:
        shape: lengths, `None` standing for any.
    """
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"


def to_lists(result: Any) -> object:
    """Turn what a module returned into what JSON can hold.

    Args:
        result: a tensor, or tuples, lists and mappings of tensors.
    """
    if isinstance(result, torch.Tensor):
        lists: object = result.tolist()
        return lists
    if isinstance(result, (tuple, list)):
        return [to_lists(part) for part in result]
    if isinstance(result, Mapping):
        return {str(key): to_lists(part) for key, part in result.items()}
    plain: object = result
    return plain
