"""The watch over a generation that is on trial, in one worker: a thread that looks at the evidence of all of them.

Whoever sees first that it must go back writes the return, under the lock of the commits: one word, which moves all
workers at the same instant to the generation that is still mapped. Before and after, every worker sees the same
evidence, so it does not matter which one acts, nor which one dies.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Callable

from serve.errors import CheckpointError
from serve.rollout.decision import Evidence, Rule, Settled, Step, Verdict, decide, is_suspect, settle
from serve.rollout.evidence_board import EvidenceBoard
from serve.store.quarantine import explain, reject_entry
from serve.swap.admission import reject
from serve.swap.context import Context
from serve.swap.host_coordinator import Coordinator

PROBATION = "probation"
_LOOK_S, _PAUSE_S, _IDLE_S = 0.25, 0.02, 2.0
# The pause between two suspicions: where the machine is slow and not the model, pairs of runs are wasted.
_SUSPICION_S = 2.0


class Probation:
    """Watches one model in one worker."""

    def __init__(
        self, context: Context, coordinator: Coordinator, rule: Rule, kept: Callable[[], frozenset[str]]
    ) -> None:
        self._context, self._coordinator, self._rule, self._kept = context, coordinator, rule, kept
        self._board = EvidenceBoard(context.store.root)
        self._number = 0
        self._settled: Settled = {}
        self._suspect_at_s = 0.0
        self._wake_up, self._is_stopping = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._last_fault = ""

    def start(self) -> None:
        """Begin to look."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=PROBATION, daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Look now."""
        self._wake_up.set()

    def stop(self) -> None:
        """End the thread; the worker ends."""
        self._is_stopping = True
        self._wake_up.set()

    def look(self) -> Verdict | None:
        """Decide about what is on trial, and do it; `None` where nothing is."""
        with self._lock:
            shared_state = self._coordinator.shared_state
            number, before, now_s = shared_state.on_trial, shared_state.kept, time.monotonic()
            if not number or number != shared_state.committed:
                return None
            if number != self._number:
                self._number, self._settled = number, {}
            evidence = self._board.read(number, before, shared_state.trial_since_ms / 1000)
            evidence = replace(evidence, settled=self._settled, crashes=shared_state.crashes)
            self._settled = settle(evidence, self._rule)
            if now_s > self._suspect_at_s and is_suspect(evidence, self._rule):
                self._suspect_at_s = now_s + _SUSPICION_S
                self._context.guard.suspect()
            verdict = decide(evidence, self._rule, now_s)
            if verdict.step is not Step.WAIT and self._context.operator_requests.pin() is not None:
                verdict = Verdict(Step.KEEP, "an operator has pinned it")
            if verdict.step is Step.BACK:
                self._take_back(number, verdict, evidence)
            elif verdict.step is Step.KEEP:
                self.end(number, verdict.reason, evidence)
            return verdict

    def end(self, number: int, reason: str, evidence: Evidence | None = None) -> None:
        """End a trial for the good, once on this host."""
        if self._coordinator.end_trial(number):
            counts = {} if evidence is None else _as_facts(evidence)
            self._context.log.emit("held", generation=number, reason=reason, **counts)

    def _take_back(self, number: int, verdict: Verdict, evidence: Evidence) -> None:
        returned = self._coordinator.take_back(number)
        if returned is None:
            return  # another worker was faster
        bad = next(entry for entry in self._context.ledger.read() if entry.generation == number)
        self._context.log.emit(
            "returned",
            generation=returned.generation,
            version=returned.version,
            sha256=returned.sha256,
            previous={"generation": number, "version": bad.version, "sha256": bad.sha256},
            signal=verdict.signal,
            reason=verdict.reason,
            **_as_facts(evidence),
        )
        error = CheckpointError(PROBATION, f"taken back from generation {number}: {verdict.reason}")
        reject(self._context, reject_entry(error, bad), self._kept)

    def _run(self) -> None:
        while not self._is_stopping:
            is_on_trial = False
            try:
                is_on_trial = self.look() is not None
                self._last_fault = ""
            except Exception as error:  # a full disk, for example: the next look tries again
                if explain(error) != self._last_fault:
                    self._last_fault = explain(error)
                    self._context.log.emit("fault", reason=self._last_fault)
                is_on_trial = True
            time.sleep(_PAUSE_S)  # what comes together is looked at once
            self._wake_up.wait(_LOOK_S if is_on_trial else _IDLE_S)
            self._wake_up.clear()


def _as_facts(evidence: Evidence) -> dict[str, object]:
    bad = {signal: list(count) for signal, count in evidence.counts.items() if count.bad}
    return {"answers": evidence.answers, "bad": bad, "seconds": round(time.monotonic() - evidence.started_s, 3)}
