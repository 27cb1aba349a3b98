"""Requests of one form that wait together, as one task: read, run and answered as one, and as one by one if need be."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

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
    """A task of several requests of one form; what `serve.batching.batch_queue.Task` documents is the same here.

    It has one lease on its generation, and is open for more requests until it is taken to be run.
    """

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
        """Turn the inputs of all into what the module takes; `None` where nothing is left.

        Requests that do not fit are in `refused` then, and not in the bundle.
        """
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
