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
from serve.model.answers import differences

if TYPE_CHECKING:
    from serve.inference.model_instance import ModelInstance
    from serve.model.predictor import Predictor

_WAITING = 64
_MOST_SHOWN = 3
# Of the differences that are logged; the rest is only counted, or a shadow that is simply another model floods the log.
_LOG_EVERY = 1000


@dataclass(frozen=True)
class Asked:
    """A request that was answered.

    Args:
        take: turns the request's inputs into what the module of a predictor takes.
        outputs: what was answered, as JSON has it.
    """

    instance: ModelInstance
    take: Callable[[Predictor], Any]
    outputs: object


@dataclass
class Counts:
    """How many requests of a model were compared with its shadow, and how it ended."""

    agreed: int = 0
    differed: int = 0
    failed: int = 0
    skipped: int = 0


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
            counts = self.counts.setdefault(asked.instance.settings.name, Counts())
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
        while (asked := self._waiting.get()) is not None:
            self._compare(asked, self.counts[asked.instance.settings.name])

    def _compare(self, asked: Asked, counts: Counts) -> None:
        try:
            with asked.instance.slot.lease() as generation:
                predictor = generation.predictor
                answered = predictor.postprocess(predictor.run(asked.take(predictor)))
        except NotLiveError:
            counts.skipped += 1
            return
        except Exception as error:  # the user's code may raise anything
            counts.failed += 1
            is_known = isinstance(error, InputError)
            self._log(asked, counts.failed, "shadow_failed", str(error) if is_known else repr(error))
            return
        found = list(differences(asked.outputs, answered, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE))
        if not found:
            counts.agreed += 1
            return
        counts.differed += 1
        reason = "; ".join(f"outputs{difference}" for difference in found[:_MOST_SHOWN])
        self._log(asked, counts.differed, "shadow_differed", reason)

    def _log(self, asked: Asked, count: int, event: str, reason: str) -> None:
        if count % _LOG_EVERY == 1:
            asked.instance.log.emit(event, reason=reason, count=count)
