"""Shadow predictions, compared with the answers of the model that is live.

All of it happens off the request path, in one thread, and never makes a request wait: while the thread is behind, a
request is not compared, and is counted as such.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

from serve.checkpoint.manifest import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE
from serve.errors import InputError, NotLiveError
from serve.model.answers import differences, find_top
from serve.rollout.decision import DISAGREED
from serve.swap.background_task import give_way

if TYPE_CHECKING:
    from serve.inference.model_instance import ModelInstance
    from serve.model.torch_predictor import TorchPredictor

_WAITING = 64
_NICENESS = 10
_MOST_SHOWN = 3
# Of the differences that are logged; the rest is only counted, or a shadow that is simply another model floods the log.
_LOG_EVERY = 1000


@dataclass(frozen=True)
class Asked:
    """A request that was answered."""

    instance: ModelInstance
    prepare: Callable[[TorchPredictor], Any]
    outputs: object
    by: ModelInstance | None = None  # what has answered; a canary is judged by the comparison, otherwise the shadow is
    generation: int = 0  # of `by`, where that is judged; 0 where the shadow is


@dataclass
class Counts:
    """How many requests of a model were compared with its shadow, and how it ended."""

    agreed: int = 0
    differed: int = 0
    failed: int = 0
    skipped: int = 0


def find_disagreement(predictor: TorchPredictor, how: str, expected: object, actual: object) -> list[str]:
    """Compare two answers as the settings want it, or as the model class's `agree(a, b)` does."""
    agree = getattr(getattr(predictor, "declared", None), "agree", None)
    if agree is not None:
        return [] if agree(expected, actual) else [": agree() returned False"]
    if how == "top1":
        expected, actual = find_top(expected), find_top(actual)
    tolerances = (0.0, 0.0) if how != "tolerance" else (RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)
    return list(differences(expected, actual, *tolerances))


class Shadow:
    """Compares answers, in a thread that starts with the first one."""

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = {}
        self._waiting: queue.Queue[Asked | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def offer(self, asked: Asked) -> None:
        """Have a request compared, if there is time for it."""
        with self._lock:
            counts = Counts() if asked.generation else self.counts.setdefault(asked.instance.settings.name, Counts())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(asked)
        except queue.Full:
            counts.skipped += 1

    def stop(self) -> None:
        """End the thread; what waits is not compared any more."""
        with self._lock:
            thread = self._thread
        if thread is None:
            return
        try:
            while True:
                self._waiting.get_nowait()
        except queue.Empty:
            self._waiting.put(None)
        thread.join(1.0)

    def _run(self) -> None:
        give_way(_NICENESS)
        while (asked := self._waiting.get()) is not None:
            # A canary's comparisons are its own; the counts are of shadows.
            self._compare(asked, Counts() if asked.generation else self.counts[asked.instance.settings.name])

    def _compare(self, asked: Asked, counts: Counts) -> None:
        judged, number = (asked.by or asked.instance) if asked.generation else asked.instance, asked.generation
        try:
            with asked.instance.slot.lease() as generation:
                number = number or generation.provenance.generation
                predictor = generation.predictor
                answered = predictor.postprocess(predictor.run(asked.prepare(predictor)))
                found = find_disagreement(predictor, judged.settings.compare, asked.outputs, answered)
        except NotLiveError:
            counts.skipped += 1
            return
        except Exception as error:  # the user's code may raise anything
            counts.failed += 1
            if not asked.generation:  # a stable one that fails speaks for no canary, and against none
                judged.guard.note(number, DISAGREED)
                reason = str(error) if isinstance(error, InputError) else repr(error)
                self._log(asked, counts.failed, "shadow_failed", reason)
            return
        judged.guard.note(number, DISAGREED, bool(found))
        if not found:
            counts.agreed += 1
            return
        counts.differed += 1
        if not asked.generation:
            reason = "; ".join(f"outputs{difference}" for difference in found[:_MOST_SHOWN])
            self._log(asked, counts.differed, "shadow_differed", reason)

    def _log(self, asked: Asked, count: int, event: str, reason: str) -> None:
        if count % _LOG_EVERY == 1:
            asked.instance.log.emit(event, reason=reason, count=count)
