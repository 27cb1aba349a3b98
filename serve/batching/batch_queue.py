"""The rules of batching: which requests run together, and where; without a clock, a thread or torch.

A queue holds the requests for one model of one worker. Those that are ready at the same moment run as one batch, on one
generation: no timer makes the first one wait, unless the settings ask for it. While a batch runs, the next one gathers.
Requests of one form wait together as one task, a bundle: read, run and answered as one, or one by one if need be.
Running and answering is the work of `serve.batching.scheduler`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Union

from serve.errors import InputError

if TYPE_CHECKING:
    from serve.gateway.request_form import RequestForm
    from serve.model.slot import Generation

Run = Callable[[Sequence[Any]], Any]


class FormedRequest(NamedTuple):
    """One request of a form."""

    numbers: bytes  # what differs in its body
    arrived_s: float  # on the monotonic clock
    trace: bytes  # the value of its `traceparent`; empty where it has none
    owner: Any  # whom to answer; the caller's


class Apart(list[Any]):
    """The results of a bundle's requests that ran one by one; an exception for one that failed."""


class Bundle:
    """A task, as `Task` is, of several requests of one form under one lease; open for more until it is taken."""

    def __init__(self, form: RequestForm, generation: Generation, key: Hashable, run: Run) -> None:
        self.form, self.generation, self.key, self.run = form, generation, key, run
        self.requests: list[FormedRequest] = []
        self.refused: list[FormedRequest] = []
        self.is_open = True
        self.since_s = self.deadline_s = math.inf

    @property
    def rows(self) -> int:
        """Rows of all requests."""
        return len(self.requests) * self.form.layout.shape[0]

    @property
    def size(self) -> int:
        """How many requests there are."""
        return len(self.requests)

    @property
    def inputs(self) -> Bundle:
        """The inputs of all: `prepare` reads them."""
        return self

    def join(self, request: FormedRequest) -> None:
        """Add a request."""
        if not self.requests:
            self.since_s = request.arrived_s
            self.deadline_s = request.arrived_s + self.form.timeout_s
        self.requests.append(request)

    def drop_late(self, now_s: float) -> list[FormedRequest]:
        """Return the requests whose deadline has passed, which are in the bundle no longer."""
        late = [request for request in self.requests if now_s > request.arrived_s + self.form.timeout_s]
        self.requests = self.requests[len(late) :]  # they are in the order of their arrival
        self.deadline_s = self.requests[0].arrived_s + self.form.timeout_s if self.requests else math.inf
        return late

    def prepare(self) -> Any | None:
        """Turn the inputs of all into what the module takes, `None` for none; what does not fit goes into `refused`."""
        try:
            return self.prepare_some(self.requests)
        except InputError:
            self._refuse_unfit()
            return self.prepare_some(self.requests) if self.requests else None

    def run_apart(self) -> Apart:
        """Run each request alone."""
        self._refuse_unfit()
        return Apart(self._run_alone(request) for request in self.requests)

    def done(self, result: Any) -> None:
        """Answer."""
        self.form.deliver(self, result)

    def prepare_some(self, requests: Sequence[FormedRequest]) -> Any:
        """Return what the module takes for some of the requests; raises `InputError` where one does not fit."""
        return self.form.layout.read([request.numbers for request in requests], self.generation.predictor)

    def _refuse_unfit(self) -> None:
        waiting, self.requests = self.requests, []
        for request in waiting:
            try:
                self.prepare_some([request])
            except InputError:
                self.refused.append(request)
            else:
                self.requests.append(request)

    def _run_alone(self, request: FormedRequest) -> Any:
        try:
            return self.generation.predictor.run(self.prepare_some([request]))
        except Exception as error:  # the model's code may raise anything
            return error


INLINE_S = 0.001  # a batch that is shorter makes no health check wait; handing it to a thread would cost more
# Beyond its time on the processor, a batch may have waited: for the interpreter lock, for other processes, or, if it
# always does, for a device or a disk.
_LONGEST_WAIT_S = 20 * INLINE_S
# An inline batch that kept the processor this long was misjudged: the model stays away from the loop for a while. One
# that only waited this long was not, on a busy machine; several in a row were.
_OVERRUN_S = 50 * INLINE_S
_MOST_OVERRUNS = 3
_BAN_S = 10.0
_UNSTEADY_S = 1.0  # hardly any machine is that busy: such a model answers now quickly, now slowly, and holds the loop
_UNSTEADY_BAN_S = 600.0
_REMEMBERED_RUNS = 8


class Task(NamedTuple):
    """One request that is ready to run."""

    # Tasks of equal keys may run together: the same generation, the same shape and kind of inputs. `None` for a task
    # that always runs alone.
    key: Hashable
    rows: int
    inputs: Any
    run: Run  # runs the inputs of several tasks of this key; one result for each, in order
    done: Callable[[Any], None]  # called with the result, or the exception
    since_s: float = 0.0  # when it became ready, on the caller's clock
    deadline_s: float = math.inf  # after which its result is no longer wanted
    owner: Any = None  # the caller's

    @property
    def size(self) -> int:
        """How many requests there are."""
        return 1


Waiting = Union[Task, Bundle]


class RunTime(NamedTuple):
    """The time of one run: of its thread on the processor, and by the clock."""

    cpu_s: float
    wall_s: float


class LatencyEstimate:
    """Remembers how long batches took, to tell which ones are short enough for the event loop. Times are grouped by the
    magnitude of the rows. The shortest of the last runs counts, and time on the processor more than time by the clock:
    on a busy machine the rest is waiting for others."""

    def __init__(self) -> None:
        self._runs: dict[int, deque[RunTime]] = {}
        self._banned_until_s = 0.0
        self._overruns = 0

    def is_short(self, rows: int, now_s: float) -> bool:
        """Whether a batch may run in the event loop; one of a model that was never timed may not."""
        runs = self._runs.get(rows.bit_length())
        if now_s < self._banned_until_s:
            return False
        if not runs:
            return self._guess_s(rows.bit_length()) < INLINE_S
        return min(took.cpu_s for took in runs) < INLINE_S and min(took.wall_s for took in runs) < _LONGEST_WAIT_S

    def _guess_s(self, magnitude: int) -> float:
        """Guess by other magnitudes: no longer than a larger one, nor than the rows of a smaller one in turn."""
        guess_s = math.inf
        for known, runs in self._runs.items():
            if min(took.wall_s for took in runs) < _LONGEST_WAIT_S:
                guess_s = min(guess_s, min(took.cpu_s for took in runs) * 2 ** max(0, magnitude - known))
        return guess_s

    def note(self, rows: int, took: RunTime, was_inline: bool, now_s: float) -> None:
        """Remember one run."""
        self._runs.setdefault(rows.bit_length(), deque(maxlen=_REMEMBERED_RUNS)).append(took)
        if took.wall_s > _UNSTEADY_S:
            self._banned_until_s = now_s + _UNSTEADY_BAN_S
        if not was_inline:
            return
        self._overruns = self._overruns + 1 if took.wall_s > _OVERRUN_S else 0
        if took.cpu_s > _OVERRUN_S or self._overruns >= _MOST_OVERRUNS:
            self._banned_until_s, self._overruns = max(self._banned_until_s, now_s + _BAN_S), 0


@dataclass
class BatchQueue:
    """The waiting tasks of one model, at most one batch of which runs at a time."""

    max_rows: int  # of one batch; a request that has more runs alone, and 1 turns batching off
    delay_s: float = 0.0  # how long the oldest request may wait for others
    name: str = ""
    latency: LatencyEstimate = field(default_factory=LatencyEstimate)
    is_running: bool = False
    sampler: Any = None
    _waiting: deque[Waiting] = field(default_factory=deque)
    _rows: int = 0
    _requests: int = 0

    def __len__(self) -> int:
        return self._requests

    def put(self, task: Task) -> None:
        """Add a task behind the others."""
        self._waiting.append(task)
        self._rows += task.rows
        self._requests += 1

    def join(self, bundle: Bundle, request: FormedRequest) -> None:
        """Add a request to a bundle, which waits from its first one on."""
        if not bundle.requests:
            self._waiting.append(bundle)
        bundle.join(request)
        self._rows += bundle.form.layout.shape[0]
        self._requests += 1

    def wait_s(self, now_s: float) -> float | None:
        """Return in how many seconds the next batch may start; `None` while nothing waits or a batch runs."""
        if self.is_running or not self._waiting:
            return None
        if self._rows >= self.max_rows or self._waiting[0].key is None:
            return 0.0
        return max(0.0, self._waiting[0].since_s + self.delay_s - now_s)

    def take(self) -> list[Waiting]:
        """Take what has waited longest, and what may run with it: of one key, not above the limit unless alone."""
        first = self._waiting.popleft()
        batch, rows = [first], first.rows
        if first.key is not None and rows < self.max_rows:
            passed: deque[Waiting] = deque()
            while self._waiting and rows < self.max_rows:
                task = self._waiting.popleft()
                if task.key == first.key and rows + task.rows <= self.max_rows:
                    batch.append(task)
                    rows += task.rows
                else:
                    passed.append(task)
            passed.extend(self._waiting)
            self._waiting = passed
        self._rows -= rows
        for task in batch:
            self._requests -= task.size
            if isinstance(task, Bundle):
                task.is_open = False
        return batch


def run_batch(batch: Sequence[Waiting]) -> list[Any]:
    """Return the result or the exception of each task of one key; a batch that fails is run again task by task."""
    try:
        results = list(batch[0].run([task.inputs for task in batch]))
        if len(results) == len(batch):
            return results
        failure: Exception = RuntimeError(f"the model: expected {len(batch)} results, found {len(results)}")
    except Exception as error:  # the model's code may raise anything
        failure = error
    if len(batch) == 1:
        alone = batch[0]
        return [alone.run_apart() if isinstance(alone, Bundle) else failure]
    return [result for task in batch for result in run_batch([task])]
