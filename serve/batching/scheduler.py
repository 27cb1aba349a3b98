"""Running the predictions of one worker without making its event loop wait.

What is ready at the same moment runs as one batch: in the loop where that is shorter than a millisecond, otherwise in a
thread of the model's own, so that health checks, the heartbeat and other models never wait for it. Which requests
share a run, and what counts as short, is told in `serve.batching.batch_queue`.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable, Union

from serve.batching.batch_queue import BatchQueue, Limits, RunTime, Task, run_batch
from serve.batching.sampling import Sampler
from serve.errors import ServeError
from serve.http.messages import Response

if TYPE_CHECKING:
    from serve.inference.model_instance import ModelInstance
    from serve.inference.prediction import Prediction
    from serve.model.predictor import Predictor
    from serve.model.slot import Generation

Done = Callable[[Union[Response, Exception]], None]


class LateError(ServeError):
    """The deadline of a request passed before its turn came."""


class Scheduler:
    """Runs predictions, on the thread of one event loop.

    Args:
        loop: the running event loop.
        note_batch: told the model's name and the rows of each batch.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, note_batch: Callable[[str, int], None]) -> None:
        self._loop = loop
        self._note_batch = note_batch
        self._lanes: dict[ModelInstance, BatchQueue] = {}
        self._threads: dict[int, ThreadPoolExecutor] = {}
        self._due: set[int] = set()

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return sum(map(len, self._lanes.values()))

    def waiting_for(self, name: str) -> int:
        """How many requests wait for a model.

        Args:
            name: of the model, whatever its labels.
        """
        count = 0
        for lane in self._lanes.values():  # a loop, as each request asks this
            if lane.name == name:
                count += len(lane)
        return count

    def submit(
        self, prediction: Prediction, done: Done, deadline_s: float | None = None, is_alone: bool = False
    ) -> None:
        """Have a prediction run and answered.

        Args:
            prediction: a request that was understood.
            done: called in the loop, after this call, with the answer, or with what was raised.
            deadline_s: when nobody wants the answer any more, on the monotonic clock; `None` for never.
            is_alone: whether the caller calls `run_now` next, as no other request is expected to join it.
        """
        runtime, predictor, taken = prediction.runtime, prediction.generation.predictor, prediction.taken
        lane = self._lanes[runtime] if runtime in self._lanes else self._make_lane(runtime)
        finish = functools.partial(_finish, prediction, done)
        until_s = math.inf if deadline_s is None else deadline_s
        now_s = time.monotonic()
        rows = predictor.count_rows(taken) if predictor.can_batch else 0
        if rows:
            key = (id(prediction.generation), predictor.batch_key(taken))
            run = functools.partial(_run_together, runtime, prediction.generation)
            lane.put(Task(key, rows, taken, run, finish, now_s, until_s, prediction))
        else:
            lane.put(Task(None, 1, taken, functools.partial(_run_alone, predictor), finish, now_s, until_s))
        if not is_alone:
            self._wake(lane)

    def run_now(self, runtime: ModelInstance) -> None:
        """Run what waits for a model at once, and not later in this turn of the loop.

        Saves a turn where nobody else is expected: at one connection that asks, a tenth of the time of a request.

        Args:
            runtime: of the model.
        """
        lane = self._lanes[runtime]
        if not lane.is_running:
            self._start(lane)

    def _make_lane(self, runtime: ModelInstance) -> BatchQueue:
        settings = runtime.settings
        limits = Limits(settings.max_batch_size, settings.max_batch_delay_ms / 1000)
        self._lanes[runtime] = BatchQueue(limits, settings.name, sampler=Sampler(settings.batch_check_share))
        return self._lanes[runtime]

    def close(self) -> None:
        """End the threads, each after the batch that it runs."""
        for thread in self._threads.values():
            thread.shutdown(wait=True)

    def _wake(self, lane: BatchQueue) -> None:
        # Later in this turn of the loop, when every connection that has bytes was read.
        if not lane.is_running and id(lane) not in self._due:
            self._due.add(id(lane))
            self._loop.call_soon(self._start, lane)

    def _start(self, lane: BatchQueue) -> None:
        self._due.discard(id(lane))
        now_s = time.monotonic()
        wait_s = lane.wait_s(now_s)
        if wait_s is None:
            return
        if wait_s > 0.0:
            self._due.add(id(lane))
            self._loop.call_later(wait_s, self._start, lane)
            return
        batch = self._drop_late(lane.take(), now_s)
        if not batch:
            self._wake(lane)
            return
        rows = sum(job.rows for job in batch)
        if lane.pace.is_short(rows, now_s):
            self._deliver(lane, batch, *_time(batch), True)
        else:
            lane.is_running = True
            self._thread_of(lane).submit(self._run_in_thread, lane, batch)

    def _drop_late(self, batch: Sequence[Task], now_s: float) -> Sequence[Task]:
        late = [job for job in batch if now_s > job.deadline_s]
        for job in late:
            job.done(LateError("the deadline passed before the work began"))
        return [job for job in batch if now_s <= job.deadline_s] if late else batch

    def _thread_of(self, lane: BatchQueue) -> ThreadPoolExecutor:
        if id(lane) not in self._threads:
            self._threads[id(lane)] = ThreadPoolExecutor(1, "inference")
        return self._threads[id(lane)]

    def _run_in_thread(self, lane: BatchQueue, batch: Sequence[Task]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, lane, batch, *_time(batch), False)

    def _deliver(
        self, lane: BatchQueue, batch: Sequence[Task], results: Sequence[Any], took: RunTime, inline: bool
    ) -> None:
        rows = sum(job.rows for job in batch)
        lane.pace.note(rows, took, inline, time.monotonic())
        self._note_batch(lane.name, rows)
        lane.is_running = False
        if len(lane):
            self._wake(lane)
        sample = lane.sampler.choose(batch, results, took.wall_s)
        for job, result in zip(batch, results):
            job.done(result)
        if sample is not None:
            # Where the lane's runs take place, so that nothing else of the model runs meanwhile.
            if inline:
                self._loop.call_soon(sample.prove)
            else:
                self._thread_of(lane).submit(sample.prove)


def _time(batch: Sequence[Task]) -> tuple[list[Any], RunTime]:
    started_s, started_cpu_s = time.monotonic(), time.thread_time()
    results = run_batch(batch)
    return results, RunTime(time.thread_time() - started_cpu_s, time.monotonic() - started_s)


def _run_alone(predictor: Predictor, several: Sequence[Any]) -> Sequence[Any]:
    return [predictor.run(taken) for taken in several]


def _run_together(runtime: ModelInstance, generation: Generation, several: Sequence[Any]) -> Sequence[Any]:
    predictor = generation.predictor
    if len(several) == 1 or runtime.batching.is_over(generation.provenance.generation):
        return _run_alone(predictor, several)
    rows = [predictor.count_rows(taken) for taken in several]
    return predictor.split(predictor.run(predictor.stack(several)), rows)


def _finish(prediction: Prediction, done: Done, given: Any) -> None:
    if isinstance(given, Exception):
        prediction.end()
        done(given)
        return
    try:
        answer = prediction.answer(given)
    except Exception as error:  # the model class may have code of its own here
        done(error)
        return
    done(answer)
