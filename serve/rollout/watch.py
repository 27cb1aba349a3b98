"""A thread that looks at the evidence of one trial, decides by its rule, and has the verdict carried out.

Every worker has one and sees the same evidence, so it does not matter which one acts, nor which one dies.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Protocol

from serve.events.event_log import EventLog
from serve.rollout.decision import Evidence, Rule, Settled, Step, Verdict, decide, is_suspect, settle
from serve.rollout.evidence_board import Guard
from serve.store.quarantine import explain

_LOOK_S, _PAUSE_S, _IDLE_S = 0.25, 0.02, 2.0
_SUSPICION_S = 2.0  # between two suspicions: where the machine is slow and not the model, pairs are wasted


class Trial(Protocol):
    """What a watch is over."""

    def find(self) -> int:
        """Return the generation that is on trial, or 0."""

    def read(self, number: int) -> Evidence:
        """Return what is known of it."""

    def carry_out(self, number: int, verdict: Verdict, evidence: Evidence) -> None:
        """Do what follows from a verdict, once on the host."""


class Watch:
    """Watches one trial in one worker."""

    def __init__(self, trial: Trial, rule: Rule, guard: Guard, log: EventLog) -> None:
        self._trial, self._rule, self._guard, self._log = trial, rule, guard, log
        self._number, self._suspect_at_s = 0, 0.0
        self._settled: Settled = {}
        self._lock, self._wake_up, self._is_stopping = threading.Lock(), threading.Event(), False
        self._thread: threading.Thread | None = None

    def start(self, name: str) -> None:
        """Begin to look, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
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
            number, now_s = self._trial.find(), time.monotonic()
            if not number:
                return None
            if number != self._number:
                self._number, self._settled = number, {}
            evidence = replace(self._trial.read(number), settled=self._settled)
            self._settled = settle(evidence, self._rule)
            if now_s > self._suspect_at_s and is_suspect(evidence, self._rule):
                self._suspect_at_s = now_s + _SUSPICION_S
                self._guard.suspect()
            verdict = decide(evidence, self._rule, now_s)
            if verdict.step is not Step.WAIT:
                self._trial.carry_out(number, verdict, evidence)
            return verdict

    def _run(self) -> None:
        last_fault, is_on_trial = "", True
        while not self._is_stopping:
            try:
                is_on_trial, last_fault = self.look() is not None, ""
            except Exception as error:  # a full disk, for example: the next look tries again
                if explain(error) != last_fault:
                    last_fault = explain(error)
                    self._log.emit("fault", reason=last_fault)
            time.sleep(_PAUSE_S)  # what comes together is looked at once
            self._wake_up.wait(_LOOK_S if is_on_trial else _IDLE_S)
            self._wake_up.clear()
