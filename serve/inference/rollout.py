"""The judgement of a canary or a shadow by its rule, in one worker: promoted, or ended, and never left hanging.

Every worker sees the same evidence, and the first to decide acts, under the lock of the label's commits. The order that
promotes has the same id whoever writes it, and is written before the rollout counts as ended: wherever a worker dies,
the next one to look does the same again, or finds it done.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from serve import durable_files
from serve.errors import CheckpointError
from serve.rollout.decision import DISAGREED, Evidence, Rule, Settled, Step, Verdict, decide, is_suspect, settle
from serve.settings.settings import SHADOW
from serve.store.quarantine import explain, reject_entry

if TYPE_CHECKING:
    from serve.inference.model_instance import ModelInstance

_LOOK_S = 0.25
_SUSPICION_S = 2.0


class Rollout:
    """Judges one label of a model.

    Args:
        stable: what it would replace.
    """

    def __init__(self, instance: ModelInstance, stable: ModelInstance, rule: Rule) -> None:
        self._instance, self._stable, self._rule = instance, stable, rule
        self._number = 0
        self._settled: Settled = {}
        self._suspect_at_s = 0.0
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._run, name="rollout", daemon=True).start()

    def stop(self) -> None:
        """End the thread; the worker ends."""
        self._stopping.set()

    def look(self) -> Verdict | None:
        """Decide, and do it; `None` where nothing is rolled out."""
        guard, shared_state = self._instance.guard, self._instance.batching.shared_state
        number, now_s = shared_state.committed, time.monotonic()
        if guard.board is None or not number or number == shared_state.ended:
            return None
        if number != self._number:
            self._number, self._settled = number, {}
        evidence = self._read(number)
        self._settled = settle(evidence, self._rule)
        if now_s > self._suspect_at_s and is_suspect(evidence, self._rule):
            self._suspect_at_s = now_s + _SUSPICION_S
            guard.suspect()
        verdict = decide(evidence, self._rule, now_s)
        if verdict.step is not Step.WAIT:
            self._end(number, verdict, evidence)
        return verdict

    def _read(self, number: int) -> Evidence:
        board, shared_state = self._instance.guard.board, self._instance.batching.shared_state
        stable = self._stable.batching.shared_state.committed
        assert board is not None
        evidence = board.read(number, 0, shared_state.trial_since_ms / 1000)
        if self._stable.guard.board is not None:
            evidence = replace(evidence, times_before=self._stable.guard.board.read(stable, 0, 0.0).times)
        is_shadow = self._instance.settings.label == SHADOW
        answers = evidence.counts[DISAGREED].of if is_shadow else evidence.answers
        return replace(evidence, answers=answers, settled=self._settled)

    def _end(self, number: int, verdict: Verdict, evidence: Evidence) -> None:
        instance, shared_state = self._instance, self._instance.batching.shared_state
        entries = [entry for entry in instance.ledger.read() if entry.generation == number]
        then = instance.settings.then if instance.settings.label == SHADOW else "promote"
        with durable_files.hold(instance.ledger.lock_path):
            if shared_state.ended == number or shared_state.committed != number or not entries:
                return  # another worker was faster
            is_promoted = verdict.step is Step.KEEP and then == "promote"
            if is_promoted:
                id = f"{instance.settings.label}-{number}-{entries[0].sha256}"
                path = instance.settings.store / "sha256" / entries[0].sha256
                self._stable.operator_requests.order_promotion(id, entries[0], path)
                self._stable.batching.shared_state.next_turn()
            shared_state.ended = number
        event = "promoted" if is_promoted else "agreed" if verdict.step is Step.KEEP else "ended"
        counts = {signal: list(count) for signal, count in evidence.counts.items() if count.bad}
        instance.log.emit(
            event,
            generation=number,
            version=entries[0].version,
            sha256=entries[0].sha256,
            signal=verdict.signal,
            reason=verdict.reason,
            answers=evidence.answers,
            bad=counts,
        )
        if verdict.signal and then != "hold":
            error = CheckpointError(instance.settings.label, f"its rollout was ended: {verdict.reason}")
            instance.reject(reject_entry(error, entries[0]))

    def _run(self) -> None:
        last_fault = ""
        while not self._stopping.wait(_LOOK_S):
            try:
                self.look()
            except Exception as error:  # a full disk, for example: the next look tries again
                if explain(error) != last_fault:
                    last_fault = explain(error)
                    self._instance.log.emit("fault", reason=last_fault)
