"""The last gates before a swap: the model answers its example, answers its golden requests rightly, and is valid.

All of it runs under one time limit, in a separate thread: a model that hangs is refused at the deadline, and the worker
that tried it goes on serving the one it has."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from serve.errors import CheckpointError, TrialError
from serve.model.answers import TEXT, ArrayForm, as_json, describe, differences, require_json
from serve.model.slot import GIVEN_UP

if TYPE_CHECKING:
    from serve.checkpoint.manifest import Golden
    from serve.model.torch_predictor import TorchPredictor

_RUNS = 2  # the first run pays for lazily created kernels and buffers, the second shows that they are there
_MOST_SHOWN = 3
Found = TypeVar("Found")


class HangingError(TrialError):
    """A trial was given up."""

    def __init__(self, thread: threading.Thread, message: str) -> None:
        super().__init__("warm-up", message)
        self.thread = thread


@dataclass(frozen=True)
class Candidate:
    """A model that is to be tried."""

    predictor: TorchPredictor
    example: object
    golden: Sequence[Golden] = ()
    validate: Callable[[Any], object] | None = None  # the model class's own check; it raises, or returns `False`
    longer: object = None  # inputs whose open lengths are others than the example's, if any
    examine: Callable[[], Any] = lambda: None  # finds out what answers do not show; raises `CheckpointError`
    prelude: Callable[[], object] = lambda: None  # comes before all else


@dataclass(frozen=True)
class Tried:
    """What was found out about a model."""

    form: dict[str, str]
    outputs: tuple[ArrayForm, ...]
    examined: Any


def warm_up(candidate: Candidate, sizes: Sequence[int], timeout_s: float) -> Tried:
    """Try a model with the example, and with `sizes` rows of it; raises `CheckpointError`, `TrialError` when late."""
    return limit(lambda: _try(candidate, sizes), timeout_s)


def _try(candidate: Candidate, sizes: Sequence[int]) -> Tried:
    predictor = candidate.predictor
    candidate.prelude()
    form = {"inputs": describe(candidate.example), "outputs": _answer(predictor, candidate.example)}
    if candidate.longer is not None:
        _answer(predictor, candidate.longer, "example_inputs at another length of dynamic_axes")
    for size in sizes:
        if not isinstance(example := candidate.example, (list, tuple)) or not example:
            raise TrialError("warm-up", f"warm_up_sizes: expected example_inputs of rows, found {describe(example)}")
        _answer(predictor, [example[row % len(example)] for row in range(size)])
    for place, golden in enumerate(candidate.golden):
        with _blamed("golden", f"golden[{place}]: expected an answer, found "):
            answer = as_json(predictor.predict(golden.inputs))
        require_golden(place, golden, answer)
    if candidate.validate is not None:
        with _blamed("validate", "validate(model): "):
            verdict = candidate.validate(predictor)
        if verdict is False:
            raise TrialError("validate", "validate(model): expected True or None, found False")
    examined = candidate.examine()
    asked = [candidate.example, *([] if candidate.longer is None else [candidate.longer])]
    raw = [predictor.run(predictor.prepare(inputs)) for inputs in asked]
    return Tried(form, describe_outputs(predictor, raw), examined)


def require_golden(place: int, golden: Golden, actual: object) -> None:
    """Refuse a model that answers otherwise than its publisher saw."""
    issues = list(differences(golden.outputs, actual, golden.rtol, golden.atol))
    if issues:
        shown = "; ".join(f"golden[{place}].outputs{issue}" for issue in issues[:_MOST_SHOWN])
        rest = len(issues) - _MOST_SHOWN
        raise CheckpointError("golden", f"{shown}{f'; and {rest} more' if rest > 0 else ''}")


def _answer(predictor: TorchPredictor, inputs: object, what: str = "example_inputs") -> str:
    with _blamed("warm-up", f"the warm-up with {what} failed: "):
        for _ in range(_RUNS):
            outputs = predictor.predict(inputs)
    require_json(outputs)
    return describe(as_json(outputs))


@contextmanager
def _blamed(code: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the user's code may raise anything
        raise TrialError(code, f"{what}{type(error).__name__}: {error}") from error


def limit(work: Callable[[], Found], timeout_s: float) -> Found:
    """Run some work in a thread, and give it up at a deadline; raises `TrialError` then, and for a `sys.exit`."""
    results: list[Found] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # the user's code may even call sys.exit
            errors.append(error)

    thread = threading.Thread(target=run, name="warm-up", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        thread.name = GIVEN_UP
        # Ends what hangs in Python code as soon as it runs again; what hangs in C stays, and is not awaited.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        raise HangingError(thread, f"the warm-up: expected its end within {timeout_s:g} s, found it still running")
    for error in errors:
        if isinstance(error, Exception):
            raise error
        raise TrialError("warm-up", f"the warm-up ended with {error!r}") from error
    return results[0]


def describe_outputs(predictor: TorchPredictor, raw: Sequence[Any]) -> tuple[ArrayForm, ...]:
    """Return the outputs' forms, from those for the example and for longer inputs; none where they are not arrays."""
    try:
        arrays, *others = [predictor.postprocess_arrays(one) for one in raw]
    except ValueError:
        return ()
    forms = []
    for name, array in arrays.items():
        lengths = zip(array.shape[1:], *(other[name].shape[1:] for other in others))
        shape = (None, *(found[0] if len(set(found)) == 1 else None for found in lengths))
        forms.append(ArrayForm(name, TEXT if array.dtype == object else array.dtype.name, shape))
    return tuple(forms)
