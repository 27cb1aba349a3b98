"""Inspection of answers before they leave, while their generation is on trial; in the thread in which they were made.

Each run is timed and counted. During a trial each answer is looked at, and for one that is spoiled the generation
before, which is still mapped, is asked the same: where it answers well, the new one is at fault, and that answer can
leave instead. So what both spoil, be it the client's inputs or the machine, speaks against neither."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from serve.errors import InputError, NotLiveError
from serve.rollout.decision import ERRORS, FINITE, LONG_S, MOST_SHARED, SLOWER

if TYPE_CHECKING:
    from serve.inference.model_instance import ModelInstance
    from serve.inference.prediction import Prediction
    from serve.model.slot import Generation
    from serve.rollout.evidence_board import Guard


_SHORT_S = 0.001
_TURNS, _MOST_TURNS = 2, 4


class Remade(NamedTuple):
    """An answer of another generation, leased as the first one is, with the signal that was wrong with that."""

    raw: Any
    instance: ModelInstance
    generation: Generation
    signal: str


def inspect(
    predictions: Sequence[Prediction], results: list[Any], rows: int, seconds: float, deadlines_s: Sequence[float]
) -> list[Any]:
    """Count a run of one generation, and look at its answers on trial; those made again come back as `Remade`."""
    first = predictions[0]
    guard, generation = first.instance.guard, first.generation
    guard.sketch(generation.provenance.generation, lambda: (first.prepared, results[0]))
    is_on_trial = guard.note_run(generation.provenance.generation, len(results), rows, seconds)
    if not is_on_trial or leave_to_writer(guard, generation, results, seconds):
        return results
    return look(predictions, results, deadlines_s)


def leave_to_writer(guard: Guard, generation: Generation, results: Sequence[Any], seconds: float) -> bool:
    """Whether who writes the answers of a run is to find what is wrong with them, as JSON holds no NaN. So it is where
    the runs are short, as looking twice would cost requests three percent: the writing, in the event loop, can then
    make an answer again."""
    number, is_declared = generation.provenance.generation, getattr(generation.predictor, "is_declared", True)
    is_left = seconds < _SHORT_S and not guard.wants_pair(number) and not is_declared
    is_left = is_left and not any(isinstance(given, (Exception, list)) for given in results)
    guard.left_to_writer = number if is_left else 0
    return is_left


def look(predictions: Sequence[Prediction], results: list[Any], deadlines_s: Sequence[float]) -> list[Any]:
    """Look at the answers of a run whose generation is on trial, as `inspect` does."""
    first = predictions[0]
    number = first.generation.provenance.generation
    if first.instance.guard.wants_pair(number):
        _time_both(first, number)
    return [_inspect_one(*one) for one in zip(predictions, results, deadlines_s)]


def inspect_written(prediction: Prediction, raw: Any) -> Any:
    """Look at an answer that could not be written as JSON, or was not, where that is left to the writer."""
    guard, number = prediction.instance.guard, prediction.generation.provenance.generation
    is_left = guard.left_to_writer == number and guard.is_on_trial(number)
    return _inspect_one(prediction, raw, math.inf) if is_left else raw


def _inspect_one(prediction: Prediction, raw: Any, deadline_s: float) -> Any:
    signal = _find_fault(prediction.generation, prediction.prepared, raw)
    number, guard = prediction.generation.provenance.generation, prediction.instance.guard
    if not signal or guard.shared[number, signal] >= MOST_SHARED:
        return raw  # or the signal does not tell the two generations apart
    other, kept = _acquire_other(prediction)
    if kept is None:
        return raw  # nothing could confirm it in this worker
    try:
        prepared = prediction.prepare(kept.predictor)
        again = kept.predictor.run(prepared)
        is_shared = bool(_find_fault(kept, prepared, again))
    except Exception:  # it fails as well
        is_shared = True
    if is_shared:
        guard.shared[number, signal] += 1
    else:
        guard.note(number, signal)
        is_wanted = guard.retry == "all" or (guard.retry == "finite" and signal == FINITE)
        if is_wanted and time.monotonic() < deadline_s:
            return Remade(again, other, kept, signal)
    other.slot.release(kept)
    return raw


def _acquire_other(prediction: Prediction) -> tuple[ModelInstance, Generation | None]:
    """Take a lease on what an answer is judged by: the generation before, or for a canary the stable one."""
    other: ModelInstance = prediction.instance.guard.elsewhere or prediction.instance
    if other is prediction.instance:
        return other, other.slot.acquire_other(prediction.generation)
    try:
        return other, other.slot.acquire()
    except NotLiveError:
        return other, None


def _find_fault(generation: Generation, prepared: Any, raw: Any) -> str:
    if isinstance(raw, Exception):
        return "" if isinstance(raw, InputError) else ERRORS
    find_fault = getattr(generation.predictor, "find_fault", None)
    if find_fault is None:
        return ""
    try:
        fault = find_fault(prepared, raw)
    except Exception:  # the model class has code of its own here
        return ERRORS
    return fault[0] if fault is not None else ""


def _time_both(prediction: Prediction, number: int) -> None:
    """Run one request on both generations in turn, for the machine to be the same; the shorter times count. What else a
    busy machine does makes a run longer, never shorter. What seems slower is confirmed by more turns; of long runs one
    must do, as the request waits."""
    guard, (other, kept) = prediction.instance.guard, _acquire_other(prediction)
    if kept is None:
        guard.note_pair(False, _SHORT_S)
        return
    started_s, is_slower = time.monotonic(), False
    try:
        prepared = prediction.prepare(kept.predictor)
        runs, took_s = (prediction.run, lambda: kept.predictor.run(prepared)), [math.inf, math.inf]
        for turn in range(_MOST_TURNS):
            is_slower = took_s[0] > guard.slower * took_s[1]
            if (turn >= _TURNS and not is_slower) or (turn and max(took_s) > LONG_S):
                break
            for place in (0, 1) if turn % 2 else (1, 0):
                began_s = time.monotonic()
                runs[place]()
                took_s[place] = min(took_s[place], time.monotonic() - began_s)
        is_slower = took_s[0] > guard.slower * took_s[1]
        guard.note(number, SLOWER, is_slower)
    except Exception:  # what fails is not timed
        is_slower = False
    finally:
        other.slot.release(kept)
        guard.note_pair(is_slower, time.monotonic() - started_s)
