"""The rollout of a canary or a shadow: promoted or ended by its rule, and never left hanging.

The first worker to decide acts, under the lock of the label's commits. The order that promotes has the same id whoever
writes it, and is written before the rollout counts as ended, as is the quarantine of one that was at fault: wherever a
worker dies, the next one to look does the same again, or finds it done.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from serve import durable_files
from serve.errors import CheckpointError
from serve.rollout.decision import DISAGREED, Evidence, Step, Verdict
from serve.settings.settings import SHADOW
from serve.store.quarantine import reject_entry

if TYPE_CHECKING:
    from serve.inference.model_instance import ModelInstance


class Rollout:
    """The rollouts of one label beside the stable one, seen by one worker; a trial of `serve.rollout.watch`."""

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
