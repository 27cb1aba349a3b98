"""The shadow, compared with what answered; the rollout of a canary or a shadow, promoted or ended by its rule.

Comparing happens in one thread and never makes a request wait: while it is behind, a request is counted as skipped. It
shares the interpreter's lock and the cores with the requests, so that it rests after each comparison until it has had
no more than `compare_share` of the time.

The first worker to decide a rollout acts, under the lock of the label's commits. The order that promotes has the same
id whoever writes it, and is written before the rollout counts as ended, as is the quarantine of one that was at fault:
wherever a worker dies, the next one to look does the same again, or finds it done."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable

from serve import durable_files
from serve.checkpoint.manifest import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE
from serve.errors import CheckpointError, InputError, NotLiveError
from serve.model.answers import disagreements
from serve.rollout.decision import DISAGREED, Evidence, Step, Verdict
from serve.settings.settings import SHADOW
from serve.store.quarantine import reject_entry
from serve.swap.background_task import give_way

if TYPE_CHECKING:
    from serve.inference.model_instance import ModelInstance
    from serve.model.torch_predictor import TorchPredictor

_WAITING = 16
_BURST_S, _LEAST = 0.05, 1e-4  # the rests begin after a burst: a few requests in a while are all compared
_NICENESS = 10
_MOST_SHOWN = 3
_LOG_EVERY = 1000  # of the differences; a shadow that is simply another model must not flood the log


@dataclass(frozen=True)
class Asked:
    """A request that was answered."""

    instance: ModelInstance
    prepare: Callable[[TorchPredictor], Any]
    outputs: object
    by: ModelInstance | None = None  # what has answered; a canary is judged by the comparison, otherwise the shadow is
    generation: int = 0  # of `by`, where that is judged; 0 where the shadow is
    answered: int = 0  # the generation of `by` that has answered

    @property
    def judged(self) -> ModelInstance:
        """What the comparison speaks for or against."""
        return (self.by if self.generation else None) or self.instance


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
    return disagreements(expected, actual, how, (RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE))


class Shadow:
    """Compares answers, in a thread that starts with the first one."""

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = {}
        self._waiting: queue.Queue[Asked | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._lock, self._is_over = threading.Lock(), threading.Event()

    def has_room(self, instance: ModelInstance, generation: int) -> bool:
        """Return whether an answer would be compared now; count it as skipped if it would not."""
        if not self._waiting.full():
            return True
        self._counts_of(instance, generation).skipped += 1
        return False

    def _counts_of(self, instance: ModelInstance, generation: int) -> Counts:
        # A canary's comparisons are its own; the counts are of shadows.
        return Counts() if generation else self.counts.setdefault(instance.settings.name, Counts())

    def offer(self, asked: Asked) -> None:
        """Have a request compared, if there is time for it."""
        with self._lock:
            counts = self._counts_of(asked.instance, asked.generation)
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
        self._is_over.set()
        try:
            while True:
                self._waiting.get_nowait()
        except queue.Empty:
            self._waiting.put(None)
        thread.join(1.0)

    def _run(self) -> None:
        give_way(_NICENESS)
        due_s = 0.0
        while (asked := self._waiting.get()) is not None:
            began_s = time.monotonic()
            self._compare(asked, self._counts_of(asked.instance, asked.generation))
            share, now_s = max(asked.judged.settings.compare_share, _LEAST), time.monotonic()
            due_s = max(due_s, now_s - _BURST_S / share) + (now_s - began_s) / share
            if share < 1 and due_s > now_s:
                self._is_over.wait(due_s - now_s)

    def _compare(self, asked: Asked, counts: Counts) -> None:
        judged, number = asked.judged, asked.generation
        if asked.by is not None and asked.answered not in (0, asked.by.slot.number):
            counts.skipped += 1  # it has waited through a rest, and what answered has gone: it speaks of nobody
            return
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


class Rollout:
    """The rollouts of one label beside the stable one, seen by one worker; what a `Watch` is over."""

    def __init__(self, instance: ModelInstance, stable: ModelInstance) -> None:
        self._instance, self._stable = instance, stable
        self._is_shadow = instance.settings.label == SHADOW

    def find(self) -> int:
        """Return the generation that is rolled out, or 0."""
        shared_state = self._instance.shared_state
        is_over = self._instance.guard.board is None or shared_state.committed == shared_state.ended
        return 0 if is_over else shared_state.committed

    def read(self, number: int) -> Evidence:
        """Return what all workers know of it, its times beside those of the stable label."""
        board, stable_board = self._instance.guard.board, self._stable.guard.board
        if board is None:
            return Evidence(0.0)
        evidence = board.read(number, 0, self._instance.shared_state.trial_since_ms / 1000)
        if stable_board is not None:
            stable = stable_board.read(self._stable.shared_state.committed, 0, 0.0)
            evidence = replace(evidence, times_before=stable.times)
        return replace(evidence, answers=evidence.counts[DISAGREED].of) if self._is_shadow else evidence

    def carry_out(self, number: int, verdict: Verdict, evidence: Evidence) -> None:
        """Promote it, or end it."""
        instance, shared_state = self._instance, self._instance.shared_state
        entry = instance.ledger.find(number)
        then = instance.settings.then if self._is_shadow else "promote"
        is_promoted = verdict.step is Step.KEEP and then == "promote"
        with durable_files.hold(instance.ledger.lock_path):
            if shared_state.ended == number or shared_state.committed != number or entry is None:
                return  # another worker was faster
            if is_promoted:
                id = f"{instance.settings.label}-{number}-{entry.sha256}"
                path = instance.settings.store / "sha256" / entry.sha256
                self._stable.operator_requests.order_promotion(id, entry, path)
                self._stable.shared_state.next_turn()
            elif verdict.signal and then != "hold":
                error = CheckpointError(instance.settings.label, f"its rollout was ended: {verdict.reason}")
                instance.reject(reject_entry(error, entry))
            shared_state.ended = number  # last: whoever dies before leaves it to the next one to look
        event = "promoted" if is_promoted else "agreed" if verdict.step is Step.KEEP else "ended"
        why = {"signal": verdict.signal, "reason": verdict.reason}
        instance.log.emit(event, **entry.identity, **why, answers=evidence.answers, bad=evidence.bad)
