"""Answering a small share of the joined requests once more, alone, to prove that company made no difference.

It happens after the answer has gone, and takes no more than the share of the work that the settings allow.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from typing import Any

from serve.batching.batch_queue import Waiting
from serve.batching.bundle import Apart, Bundle
from serve.inference.prediction import Prediction
from serve.swap.generation import identify


class Sampler:
    """Chooses the joined requests of a model that are answered once more, within a share of the time of its runs."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._worked_s = self._spent_s = 0.0
        self._is_busy = False

    def choose(self, batch: Sequence[Waiting], results: Sequence[Any], worked_s: float) -> Sample | None:
        """Choose one request of a batch that has run, and hold its generation."""
        self._worked_s += worked_s
        if sum(task.size for task in batch) < 2 or self._is_busy or not self._spent_s < self._share * self._worked_s:
            return None
        asked = [each for task, result in zip(batch, results) for each in _requests_of(task, result)]
        place = random.randrange(len(asked))  # noqa: S311 - nothing secret about it
        prediction, result, _ = asked[place]
        if isinstance(result, Exception) or prediction.instance.batching.is_over(_number(prediction)):
            return None
        prediction.instance.slot.hold(prediction.generation)
        self._is_busy = True
        return Sample(self, prediction, copy.deepcopy(result), [rows for _, _, rows in asked], place)

    def note(self, spent_s: float) -> None:
        """Count the time of a sample that is done."""
        self._spent_s += spent_s
        self._is_busy = False


class Sample:
    """One joined request that is answered once more.

    Args:
        prediction: the request; its generation is held.
        result: of the module for it in company.
        rows: of each request that shared the run.
    """

    def __init__(self, sampler: Sampler, prediction: Prediction, result: Any, rows: Sequence[int], place: int) -> None:
        self._sampler, self._prediction, self._result = sampler, prediction, result
        self._rows, self._place = rows, place

    def prove(self) -> None:
        """Answer it alone, compare, and where the answer is another one, end batching for the generation."""
        prediction, started_s = self._prediction, time.monotonic()
        predictor = prediction.generation.predictor
        try:
            gap = predictor.compare_alone(prediction.taken, self._result, self._rows, self._place)
            if gap:
                self._report(gap)
        except Exception as error:  # the module's code, which fails alone and not in company
            self._report(repr(error))
        finally:
            prediction.instance.slot.release(prediction.generation)
            self._sampler.note(time.monotonic() - started_s)

    def _report(self, gap: float | str) -> None:
        instance, generation = self._prediction.instance, self._prediction.generation
        instance.batching.end(_number(self._prediction))
        instance.log.emit(
            "batch_mismatch", **identify(generation), gap=gap, requests=len(self._rows), rows=sum(self._rows)
        )


def _requests_of(task: Waiting, result: Any) -> list[tuple[Prediction, Any, int]]:
    if not isinstance(task, Bundle):
        return [(task.owner, result, task.rows)]
    rows = task.form.layout.shape[0]
    split = task.generation.predictor.split
    results = result if isinstance(result, Apart) else split(result, [rows] * task.size)
    predictions = (task.form.prediction_of(task, request) for request in task.requests)
    return [(prediction, one, rows) for prediction, one in zip(predictions, results)]


def _number(prediction: Prediction) -> int:
    return prediction.generation.provenance.generation
