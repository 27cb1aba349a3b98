"""The one place of a worker that holds the live model.

A request leases the generation that is live when it starts and keeps it to its end. Where workers move together, the
commit register states which one is live: it is read once for each request, and when it names the generation that stands
by, that one is live from this request on, in this worker as in all others. What was replaced is handed back when its
last lease has ended, and, while its successor is on trial, kept: after a return it is live again at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Callable

from serve.checkpoint.provenance import Provenance
from serve.errors import HeldError, NotLiveError

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor
    from serve.swap.shared_state import SharedState

GIVEN_UP = "given-up"  # the name of a thread in which a model was tried, that did not end in time, and runs on


@dataclass(frozen=True)
class Generation:
    """A model that is, was or will be live. `facts`: what the log and `GET /model` say about it beyond that."""

    predictor: TorchPredictor
    provenance: Provenance
    facts: dict[str, object]


class Slot:
    """Holds the live generation, and the one that stands by, and counts who uses which. The register states which one
    is live; without it only `swap` does. It is not read before there is one to choose. `is_open`: whether a request may
    start now."""

    def __init__(self, register: SharedState | None = None, is_open: Callable[[], bool] = lambda: True) -> None:
        self._register, self._is_open = register, is_open
        self._live: Generation | None = None
        self._standby: Generation | None = None
        self._kept: Generation | None = None
        self._leases: dict[int, int] = {}
        self._draining: list[Generation] = []
        self._lock = threading.Lock()

    @property
    def live(self) -> Generation | None:
        """The live generation, for looking at; answering a request takes a lease."""
        with self._lock:
            return self._choose()

    @property
    def number(self) -> int:
        """The number of the live generation, or 0."""
        live = self.live
        return live.provenance.generation if live is not None else 0

    def acquire(self) -> Generation:
        """Lease what is live, for one request, until `release`; raises `NotLiveError`, or `HeldError` while shut."""
        # Choosing the generation and counting the lease are one step, or a swap in between could retire it.
        with self._lock:
            if not self._is_open():  # asked first: what is chosen after it is no older than what all had agreed on
                raise HeldError("the host may not answer now: the fleet is moving, or out of its reach")
            generation = self._choose()
            if generation is None:
                raise NotLiveError("no model is live in this worker yet")
            self._add_lease(generation)
        return generation

    def is_live(self, generation: Generation) -> bool:
        """Whether a request that starts now is to run on this generation, on which the caller has a lease."""
        is_open, committed = self._is_open(), self._register.word[0] if self._register is not None else 0
        return is_open and self._live is generation and committed in (0, generation.provenance.generation)

    def acquire_other(self, generation: Generation) -> Generation | None:
        """Take a lease on what all workers go back to, or have gone back to, from a generation; `None` for nothing."""
        with self._lock:
            other = self._kept or self._choose()
            if other is None or other is generation:
                return None
            self._add_lease(other)
            return other

    def keep(self, generation: Generation) -> None:
        """Keep a generation beside the live one, in a worker that starts during a trial."""
        with self._lock:
            self._kept = generation

    def let_go(self) -> bool:
        """Let the kept generation drain; the trial has ended. Returns whether there was one."""
        with self._lock:
            kept, self._kept = self._kept, None
            self._draining += [kept] if kept is not None else []
        return kept is not None

    def hold(self, generation: Generation) -> None:
        """Take another lease on a generation that has one."""
        with self._lock:
            self._add_lease(generation)

    def release(self, generation: Generation) -> None:
        """End a lease."""
        key = id(generation.predictor)
        with self._lock:
            self._leases[key] -= 1
            if not self._leases[key]:
                del self._leases[key]

    @contextmanager
    def lease(self) -> Iterator[Generation]:
        """Hold the live generation while a block runs."""
        generation = self.acquire()
        try:
            yield generation
        finally:
            self.release(generation)

    def stand_by(self, generation: Generation | None) -> None:
        """Hold a generation ready until the register names it; `None` when its proposal was closed."""
        with self._lock:
            self._standby = generation

    def swap(self, generation: Generation) -> Generation | None:
        """Make a generation live at once. Returns the generation that it replaced; it drains from now on."""
        with self._lock:
            return self._swap(generation)

    def take_drained(self) -> list[Generation]:
        """Hand over the replaced generations that no request uses any more, the longest replaced first."""
        with self._lock:
            drained = [generation for generation in self._draining if id(generation.predictor) not in self._leases]
            self._draining = [generation for generation in self._draining if id(generation.predictor) in self._leases]
        return drained

    def vacate(self) -> None:
        """Serve nothing for a while; what was live drains. Requests get the answer that no model is live."""
        with self._lock:
            if self._live is not None:
                self._draining.append(self._live)
                self._live = None

    def put_back(self, generation: Generation) -> None:
        """Undo `vacate`, unless something else has become live."""
        with self._lock:
            self._draining = [other for other in self._draining if other is not generation]
            self._live = self._live or generation

    @property
    def is_draining(self) -> bool:
        """Whether a replaced generation still has leases, or was not handed over yet."""
        return bool(self._draining)

    def _choose(self) -> Generation | None:
        if self._register is None or (self._live is None and self._standby is None):
            return self._live
        committed = self._register.word[0]  # 0 before the first commit of a host
        if not committed or (self._live is not None and self._live.provenance.generation == committed):
            return self._live
        if committed == self._register.returned:
            return self._return(self._register.kept, committed)
        if self._standby is not None and self._standby.provenance.generation == committed:
            generation, self._standby = self._standby, None
            self._swap(generation)
            return generation
        # All other workers have moved, and this one was not ready: rather no answer than an old one. It cannot happen
        # to a worker that is a member; the reloader loads what is committed.
        return None

    def _return(self, kept: int, number: int) -> Generation | None:
        """Make what was kept live again; the live one may be it, in a worker that had no request meanwhile."""
        live = self._live
        known = [one for one in (self._kept, live) if one is not None]
        former = next((one for one in known if one.provenance.generation == kept), None)
        if former is None:
            return None  # this worker has not loaded it; the reloader loads what is committed
        facts = {**former.facts, "cause": "return"}
        self._live = replace(former, provenance=replace(former.provenance, generation=number), facts=facts)
        self._kept = None
        if live is not None and live is not former:
            self._draining.append(live)
        return self._live

    def _swap(self, generation: Generation) -> Generation | None:
        replaced, self._live = self._live, generation
        known, self._kept = (self._kept, replaced), None
        wanted = self._register.kept if self._register is not None else 0
        for one in known:
            if one is not None and wanted and one.provenance.generation == wanted:
                self._kept = one
            elif one is not None:
                self._draining.append(one)
        return replaced

    def _add_lease(self, generation: Generation) -> None:
        key = id(generation.predictor)  # a generation that comes back has a new number
        self._leases[key] = self._leases.get(key, 0) + 1  # no default: a lease that ends twice must not pass unseen
