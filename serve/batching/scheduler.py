"""Running the predictions of one worker without making its event loop wait.

What is ready at the same moment runs as one batch (`serve.batching.batch_queue`): in the loop where that is shorter
than a millisecond, otherwise in a thread of the model's own. A small share of the joined requests is answered once
more, alone, to prove that company made no difference: after the answer has gone, and within the share of the work that
the settings allow."""

from __future__ import annotations

import asyncio
import copy
import functools
import math
import random
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable, Union

from serve.batching.batch_queue import Apart, BatchQueue, Bundle, FormedRequest, RunTime, Task, Waiting, run_batch
from serve.errors import ServeError
from serve.http.messages import Response
from serve.inference.inspection import Remade, leave_to_writer, look
from serve.inference.prediction import Prediction
from serve.swap.generation import identify

if TYPE_CHECKING:
    from serve.gateway.request_form import RequestForm
    from serve.inference.model_instance import ModelInstance
    from serve.model.slot import Generation

_LONG_S = 0.004  # a request that waits for a run of this length had better be answered by another worker
Done = Callable[[Union[Response, Exception]], None]


class LateError(ServeError):
    """The deadline of a request passed before its turn came."""


class Scheduler:
    """Runs predictions, on the thread of one event loop; `note_batch` takes the model and the rows of each batch."""

    def __init__(self, loop: asyncio.AbstractEventLoop, note_batch: Callable[[str, int], None]) -> None:
        self._loop = loop
        self._note_batch = note_batch
        self._batch_queues: dict[ModelInstance, BatchQueue] = {}
        self._threads: dict[int, ThreadPoolExecutor] = {}
        self._due: set[int] = set()
        self.is_long = False  # whether the last run took so long that no request should wait behind one

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return sum(map(len, self._batch_queues.values()))

    def waiting_for(self, name: str) -> int:
        """How many requests wait for a model."""
        count = 0
        for batch_queue in self._batch_queues.values():  # a loop, as each request asks this
            if batch_queue.name == name:
                count += len(batch_queue)
        return count

    def submit(
        self, prediction: Prediction, done: Done, deadline_s: float | None = None, is_alone: bool = False
    ) -> None:
        """Have a prediction run; `done` gets the answer or what was raised, in the loop, and not before this returns.
        `deadline_s` is on the monotonic clock; with `is_alone` the caller calls `run_now` next, as no other will
        join."""
        instance, predictor, prepared = prediction.instance, prediction.generation.predictor, prediction.prepared
        batch_queue = self._batch_queues[instance] if instance in self._batch_queues else self._make_queue(instance)
        finish = functools.partial(_finish, prediction, done)
        until_s = math.inf if deadline_s is None else deadline_s
        now_s = time.monotonic()
        rows = predictor.count_rows(prepared) if predictor.can_batch else 0
        key = (id(prediction.generation), predictor.batch_key(prepared)) if rows else None
        run = functools.partial(_run_together, instance, prediction.generation)
        batch_queue.put(Task(key, rows or 1, prepared, run, finish, now_s, until_s, prediction))
        if not is_alone:
            self._wake(batch_queue)

    def open(self, instance: ModelInstance, form: RequestForm, generation: Generation, kind: Hashable) -> Bundle:
        """Make a bundle, which waits from the first request on that joins it; `kind`: the batch key of its requests."""
        run = functools.partial(_run_together, instance, generation)
        return Bundle(form, generation, (id(generation), kind), run)

    def join(self, instance: ModelInstance, bundle: Bundle, request: FormedRequest, is_alone: bool) -> None:
        """Have a request run and answered with a bundle that is open."""
        batch_queue = self._batch_queues[instance] if instance in self._batch_queues else self._make_queue(instance)
        batch_queue.join(bundle, request)
        if not is_alone:
            self._wake(batch_queue)
        elif not batch_queue.is_running:
            self._start(batch_queue)

    def run_now(self, instance: ModelInstance) -> None:
        """Run what waits for a model at once: on a sole connection the loop's turn is a tenth of a request's time."""
        batch_queue = self._batch_queues[instance]
        if not batch_queue.is_running:
            self._start(batch_queue)

    def _make_queue(self, instance: ModelInstance) -> BatchQueue:
        settings = instance.settings
        limits = settings.max_batch_size, settings.max_batch_delay_ms / 1000
        made = BatchQueue(*limits, name=settings.name, sampler=Sampler(settings.batch_check_share))
        self._batch_queues[instance] = made
        return made

    def close(self) -> None:
        """End the threads, each after the batch that it runs."""
        for thread in self._threads.values():
            thread.shutdown(wait=True)

    def _wake(self, batch_queue: BatchQueue) -> None:
        # Later in this turn of the loop, when every connection that has bytes was read.
        if not batch_queue.is_running and id(batch_queue) not in self._due:
            self._due.add(id(batch_queue))
            self._loop.call_soon(self._start, batch_queue)

    def _start(self, batch_queue: BatchQueue) -> None:
        self._due.discard(id(batch_queue))
        now_s = time.monotonic()
        wait_s = batch_queue.wait_s(now_s)
        if wait_s is None:
            return
        if wait_s > 0.0:
            self._due.add(id(batch_queue))
            self._loop.call_later(wait_s, self._start, batch_queue)
            return
        batch = self._drop_late(batch_queue.take(), now_s)
        if not batch:
            self._wake(batch_queue)
            return
        rows = sum(task.rows for task in batch)
        if batch_queue.latency.is_short(rows, now_s):
            self._deliver(batch_queue, batch, *_time(batch), True)
        else:
            batch_queue.is_running = True
            deliver, later = functools.partial(self._deliver, batch_queue, batch), self._loop.call_soon_threadsafe
            self._thread_of(batch_queue).submit(lambda: later(deliver, *_time(batch), False))

    def _drop_late(self, batch: Sequence[Waiting], now_s: float) -> Sequence[Waiting]:
        late = [task for task in batch if now_s > task.deadline_s]
        for task in late:
            error = LateError("the deadline passed before the work began")
            if not isinstance(task, Bundle):
                task.done(error)
                continue
            for request in task.drop_late(now_s):
                task.form.fail(request, error)
            if not task.requests:
                task.done([])
        return [task for task in batch if now_s <= task.deadline_s and task.size] if late else batch

    def _thread_of(self, batch_queue: BatchQueue) -> ThreadPoolExecutor:
        if id(batch_queue) not in self._threads:
            self._threads[id(batch_queue)] = ThreadPoolExecutor(1, "inference")
        return self._threads[id(batch_queue)]

    def _deliver(
        self, batch_queue: BatchQueue, batch: Sequence[Waiting], results: Sequence[Any], took: RunTime, inline: bool
    ) -> None:
        rows = sum(task.rows for task in batch)
        if rows:
            batch_queue.latency.note(rows, took, inline, time.monotonic())
            self._note_batch(batch_queue.name, rows)
        self.is_long = not inline and took.wall_s > _LONG_S
        batch_queue.is_running = False
        if len(batch_queue):
            self._wake(batch_queue)
        prove = batch_queue.sampler.choose(batch, results, took.wall_s)
        for task, result in zip(batch, results):
            task.done(result)
        if prove is not None:
            # Where the model's runs take place, so that nothing else of the model runs meanwhile.
            if inline:
                self._loop.call_soon(prove)
            else:
                self._thread_of(batch_queue).submit(prove)


def _time(batch: Sequence[Waiting]) -> tuple[list[Any], RunTime]:
    started_s, started_cpu_s = time.monotonic(), time.thread_time()
    results = run_batch(batch)
    took = RunTime(time.thread_time() - started_cpu_s, time.monotonic() - started_s)
    return _inspect(batch, results, took.wall_s), took


def _inspect(batch: Sequence[Waiting], results: list[Any], seconds: float) -> list[Any]:
    """Count a run; while its generation is on trial, look at each of its answers."""
    first, count = batch[0], sum(task.size for task in batch)
    instance, generation = (first.form.instance, first.generation) if isinstance(first, Bundle) else first.owner[:2]
    rows, number = sum(task.rows for task in batch), generation.provenance.generation
    if not count:
        return results
    instance.guard.sketch(number, lambda: (_inputs_of(first), results[0]))
    is_on_trial = instance.guard.note_run(number, count, rows, seconds)
    if not is_on_trial or leave_to_writer(instance.guard, generation, results, seconds):
        return results
    asked = [_requests_of(task, result) for task, result in zip(batch, results)]
    all_asked = [one for several in asked for one in several]
    deadlines_s = [task.deadline_s for task, several in zip(batch, asked) for _ in several]
    looked = iter(look([one[0] for one in all_asked], [one[1] for one in all_asked], deadlines_s))
    found = [[next(looked) for _ in several] for several in asked]
    return [Apart(several) if isinstance(task, Bundle) else several[0] for task, several in zip(batch, found)]


def _inputs_of(task: Waiting) -> Any:
    return task.prepare_some(task.requests[:1]) if isinstance(task, Bundle) else task.inputs


def _run_together(instance: ModelInstance, generation: Generation, several: Sequence[Any]) -> Sequence[Any]:
    predictor = generation.predictor
    is_single = len(several) == 1 and not isinstance(several[0], Bundle)
    if is_single or instance.shared_state.unbatched == generation.provenance.generation:
        return [one.run_apart() if isinstance(one, Bundle) else predictor.run(one) for one in several]
    prepared = [one.prepare() if isinstance(one, Bundle) else one for one in several]
    left = [one for one in prepared if one is not None]
    if not left:
        return [None] * len(several)
    raw = predictor.run(left[0] if len(left) == 1 else predictor.stack(left))
    results = iter(predictor.split(raw, [predictor.count_rows(one) for one in left]))
    return [None if one is None else next(results) for one in prepared]


def _finish(prediction: Prediction, done: Done, raw: Any) -> None:
    found = raw
    if isinstance(raw, Exception):
        prediction.end()
    else:
        try:
            found = prediction.answer(raw)
        except Exception as error:  # the model class may have code of its own here
            found = error
    done(found)


class Sampler:
    """Chooses the joined requests of a model that are answered once more, within a share of the time of its runs."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._worked_s = self._spent_s = 0.0
        self._is_busy = False

    def choose(self, batch: Sequence[Waiting], results: Sequence[Any], worked_s: float) -> Callable[[], None] | None:
        """Choose one request of a batch that has run, and hold its generation; return what proves it."""
        self._worked_s += worked_s
        if sum(task.size for task in batch) < 2 or self._is_busy or not self._spent_s < self._share * self._worked_s:
            return None
        asked = [request for task, result in zip(batch, results) for request in _requests_of(task, result)]
        place = random.randrange(len(asked))  # noqa: S311 - nothing secret about it
        prediction, result, _ = asked[place]
        is_over = prediction.instance.shared_state.unbatched == prediction.generation.provenance.generation
        if isinstance(result, (Exception, Remade)) or is_over:
            return None
        prediction.instance.slot.hold(prediction.generation)
        self._is_busy = True
        rows = [rows for _, _, rows in asked]
        return functools.partial(self._prove, prediction, copy.deepcopy(result), rows, place)

    def _prove(self, prediction: Prediction, result: Any, rows: Sequence[int], place: int) -> None:
        """Answer a request alone, compare, and where the answer is another one, end batching for the generation."""
        instance, generation, started_s = prediction.instance, prediction.generation, time.monotonic()
        gap: float | str
        try:
            try:
                gap = generation.predictor.compare_alone(prediction.prepared, result, rows, place)
            except Exception as error:  # the module's code, which fails alone and not in company
                gap = repr(error)
            if gap:
                instance.shared_state.unbatched = generation.provenance.generation
                shared = {"requests": len(rows), "rows": sum(rows)}
                instance.log.emit("batch_mismatch", **identify(generation), gap=gap, **shared)
        finally:
            instance.slot.release(generation)
            self._spent_s += time.monotonic() - started_s
            self._is_busy = False


def _requests_of(task: Waiting, result: Any) -> list[tuple[Prediction, Any, int]]:
    if not isinstance(task, Bundle):
        return [(task.owner, result, task.rows)]
    rows, split = task.form.layout.shape[0], task.generation.predictor.split
    results = result if isinstance(result, Apart) else split(result, [rows] * task.size)
    predictions = (task.form.prediction_of(task, request) for request in task.requests)
    return [(prediction, one, rows) for prediction, one in zip(predictions, results)]
