"""The last gates before a swap: the model answers its example, answers its golden requests rightly, and is valid.

All of it runs under one time limit, in a thread of its own: a model that hangs is refused at the deadline, and the
worker that tried it goes on serving the one it has.
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, TypeVar

from serve.checkpoint.golden import Golden
from serve.errors import CheckpointError
from serve.model.batchability import describe_outputs, find_batchable
from serve.model.golden_check import require_golden
from serve.model.interface import describe
from serve.model.predictor import ArrayForm, Predictor

# The first run pays for lazily created kernels and buffers, the second shows that they are there.
_RUNS = 2
Found = TypeVar("Found")


@dataclass(frozen=True)
class Candidate:
    """A model that is to be tried.

    Args:
        predictor: answers requests.
        example: inputs as a request has them.
        golden: requests whose answers are known.
        validate: the model class's own check, where it has one; it raises, or returns `False`, for a bad model.
        may_batch: whether to find out if requests may share one run.
    """

    predictor: Predictor
    example: object
    golden: Sequence[Golden] = ()
    validate: Callable[[Any], object] | None = None
    may_batch: bool = True


@dataclass(frozen=True)
class Tried:
    """What was found out about a model.

    Args:
        form: of the example and of its answer.
        outputs: as arrays.
        can_batch: whether requests may share one run.
    """

    form: dict[str, str]
    outputs: tuple[ArrayForm, ...]
    can_batch: bool


def warm_up(candidate: Candidate, sizes: Sequence[int], timeout_s: float) -> Tried:
    """Try a model.

    Args:
        candidate: the model, and what to ask it.
        sizes: the numbers of rows that will be served; none means those of the example.
        timeout_s: how long all of it may take.

    Returns:
        What was found out about it.

    Raises:
        CheckpointError: it fails, answers wrongly, or is not done in time.
    """
    return limit(lambda: _try(candidate, sizes), timeout_s)


def _try(candidate: Candidate, sizes: Sequence[int]) -> Tried:
    predictor = candidate.predictor
    form = {"inputs": describe(candidate.example), "outputs": _answer(predictor, candidate.example)}
    for size in sizes:
        _answer(predictor, _resize(candidate.example, size))
    for place, golden in enumerate(candidate.golden):
        require_golden(place, golden, _ask_golden(predictor, place, golden))
    _validate(candidate)
    taken = predictor.take(candidate.example)
    given = predictor.run(taken)
    can_batch = candidate.may_batch and find_batchable(predictor, taken, given)
    return Tried(form, describe_outputs(predictor, given), can_batch)


def _answer(predictor: Predictor, inputs: object) -> str:
    try:
        for _ in range(_RUNS):
            outputs = json.loads(json.dumps(predictor.predict(inputs), allow_nan=False))
    except Exception as error:  # the user's code may raise anything
        raise CheckpointError(
            "warm-up", f"the warm-up with example_inputs failed: {type(error).__name__}: {error}"
        ) from error
    return describe(outputs)


def _resize(example: object, size: int) -> object:
    if not isinstance(example, (list, tuple)) or not example:
        raise CheckpointError("warm-up", f"warm_up_sizes: expected example_inputs of rows, found {describe(example)}")
    return [example[row % len(example)] for row in range(size)]


def _ask_golden(predictor: Predictor, place: int, golden: Golden) -> object:
    try:
        return json.loads(json.dumps(predictor.predict(golden.inputs)))
    except Exception as error:  # the user's code may raise anything
        raise CheckpointError(
            "golden", f"golden[{place}]: expected an answer, found {type(error).__name__}: {error}"
        ) from error


def _validate(candidate: Candidate) -> None:
    if candidate.validate is None:
        return
    try:
        verdict = candidate.validate(candidate.predictor)
    except Exception as error:  # the user's code may raise anything
        raise CheckpointError("validate", f"validate(model): {type(error).__name__}: {error}") from error
    if verdict is False:
        raise CheckpointError("validate", "validate(model): expected True or None, found False")


def limit(work: Callable[[], Found], timeout_s: float) -> Found:
    """Run some work in a thread, and give it up at a deadline.

    Args:
        work: may run the user's code.
        timeout_s: how long it may take.

    Returns:
        What the work returned.

    Raises:
        CheckpointError: it was not done in time, or ended the interpreter.
        Exception: what the work raised.
    """
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
        _interrupt(thread)
        raise CheckpointError(
            "warm-up", f"the warm-up: expected its end within {timeout_s:g} s, found it still running"
        )
    for error in errors:
        if isinstance(error, Exception):
            raise error
        raise CheckpointError("warm-up", f"the warm-up ended with {error!r}") from error
    return results[0]


def _interrupt(thread: threading.Thread) -> None:
    # Ends what hangs in Python code as soon as it runs again; what hangs in C stays, in a thread that nobody awaits.
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
