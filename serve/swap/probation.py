"""The probation of a generation: the end of it, and the return to the one that is still mapped.

Whoever sees first that it must go back writes the return, under the lock of the commits: one word, which moves all
workers at the same instant.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Callable

from serve.errors import CheckpointError
from serve.rollout.decision import Evidence, Step, Verdict
from serve.rollout.evidence_board import EvidenceBoard
from serve.store.quarantine import reject_entry

if TYPE_CHECKING:
    from serve.store.ledger import Entry
    from serve.store.quarantine import Rejection
    from serve.swap.context import Context
    from serve.swap.host_coordinator import Coordinator

PROBATION = "probation"


class Probation:
    """The probations of one model, seen by one worker; a trial of `serve.rollout.watch`."""

    def __init__(self, context: Context, coordinator: Coordinator, kept: Callable[[], frozenset[str]]) -> None:
        self._context, self._coordinator, self._kept = context, coordinator, kept
        self._board = EvidenceBoard(context.store.root)

    def find(self) -> int:
        """Return the generation that is on probation, or 0."""
        shared_state = self._coordinator.shared_state
        return shared_state.on_trial if shared_state.on_trial == shared_state.committed else 0

    def read(self, number: int) -> Evidence:
        """Return what all workers know of it."""
        shared_state = self._coordinator.shared_state
        evidence = self._board.read(number, shared_state.kept, shared_state.trial_since_ms / 1000)
        return replace(evidence, crashes=shared_state.crashes)

    def carry_out(self, number: int, verdict: Verdict, evidence: Evidence) -> None:
        """Let it stay, or take it back."""
        if self._context.operator_requests.pin() is not None:
            verdict = Verdict(Step.KEEP, "an operator has pinned it")
        if verdict.step is Step.KEEP:
            self.end(number, verdict.reason, evidence)
            return
        returned = self._coordinator.take_back(number, verdict.reason)
        if returned is None:
            return  # another worker was faster, or the fleet was asked
        bad = next(entry for entry in self._context.ledger.read() if entry.generation == number)
        previous = {**bad.identity, **self._board.sum_up(number)}
        facts = {"previous": previous, "signal": verdict.signal, "reason": verdict.reason}
        self._context.log.emit("returned", **returned.identity, **facts, **_as_facts(evidence))
        self._context.reject(reject_return(bad, verdict.reason), self._kept)

    def end(self, number: int, reason: str, evidence: Evidence | None = None) -> None:
        """Let it stay, once on this host."""
        if self._coordinator.end_trial(number):
            counts = {} if evidence is None else _as_facts(evidence)
            self._context.log.emit("held", generation=number, reason=reason, **counts)


def reject_return(bad: Entry, reason: str) -> Rejection:
    """Refuse what was taken back."""
    return reject_entry(CheckpointError(PROBATION, f"taken back from generation {bad.generation}: {reason}"), bad)


def _as_facts(evidence: Evidence) -> dict[str, object]:
    seconds = round(time.monotonic() - evidence.started_s, 3)
    return {"answers": evidence.answers, "bad": evidence.bad, "seconds": seconds}
