"""Weights in memory that are not the published ones: found while they serve, and when an operator asks.

A generation whose weights have changed is named, and where that may not be, refused after all: the host goes back to
the newest kept one of other content, as after `rollback`, or serves nothing. An operator's request lies beside the
store as a file; each worker answers with another, and whoever asked deletes both."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from serve import durable_files
from serve.durable_files import Records
from serve.errors import CheckpointError, OperationError
from serve.store.quarantine import explain, reject_entry
from serve.swap.background_task import BackgroundTask
from serve.swap.generation import ENDED, identify, is_ended

if TYPE_CHECKING:
    from serve.model.loader import ModelLoader
    from serve.model.slot import Generation
    from serve.store.operator_requests import OperatorRequests
    from serve.swap.context import Committer, Context

_REST = 200  # so many times as long as a look at the versions takes, none follows: half a percent of a core
_MOST_NAMES = 100


@dataclass(frozen=True)
class Changed:
    """A parameter or buffer of a generation that differs from the published one."""

    tensor: str
    generation: int
    since: str


def changed_tensors(root: Path) -> Records[Changed]:
    """Return the file in which the workers of a host name them."""
    return Records(root / "changed.json", Changed, lambda changed: changed.tensor)


class ChangedWeights:
    """Looks after the live weights of one worker."""

    def __init__(self, context: Context, committer: Committer) -> None:
        self._context, self._committer = context, committer
        self._records = changed_tensors(context.store.root)
        self._may_change = context.settings.stateful == "allow"
        self._next_look_s = 0.0

    def look(self) -> bool:
        """Name what has changed, once; return whether this worker serves its generation no longer."""
        context, live = self._context, self._context.slot.live
        if live is None:
            return False
        began_s, versions = time.monotonic(), live.predictor.versions
        if versions is not None and began_s >= self._next_look_s:
            written = versions.written()
            self._next_look_s = began_s + _REST * (time.monotonic() - began_s)
            self.name(live, written)
        if self._may_change or not is_ended(context, live.provenance.sha256):
            return False
        order = context.operator_requests.rollback()
        if order and not self._committer.is_done(order) and not context.quarantine.find(order.fingerprint):
            return False  # it answers until the host has gone back
        context.slot.vacate()
        context.log.emit("unloaded", **identify(live), reason="its weights have changed")
        self._committer.report()
        return True

    def name(self, live: Generation, tensors: list[str]) -> None:
        """Name tensors that differ from the published ones: in the log, the description of the model and the status."""
        known: list[str] = live.facts.get("changed_tensors", [])  # type: ignore[assignment]
        tensors = sorted({*known, *tensors})
        if tensors == known:
            return
        number, since = live.provenance.generation, datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        new = {name: Changed(name, number, since) for name in tensors[:_MOST_NAMES]}
        self._records.change(lambda old: {**new, **{one: old[one] for one in old if old[one].generation == number}})
        live.facts["changed_tensors"] = tensors
        self._context.log.emit("weights_changed", **identify(live), tensors=tensors)
        if not self._may_change:
            self._refuse(live, tensors)

    def _refuse(self, live: Generation, tensors: list[str]) -> None:
        context, entries = self._context, self._context.ledger.read()
        entry = context.ledger.find(live.provenance.generation)
        if entry is None or is_ended(context, entry.sha256):
            return  # another worker was faster
        others = (one for one in reversed(entries) if one.sha256 != entry.sha256)
        good = (one for one in others if context.store.has(one.sha256) and not is_ended(context, one.sha256))
        back = next(good, None)
        said = f"{', '.join(tensors)}: expected weights that stay as they were published, found them changed under load"
        error = CheckpointError(ENDED, said, hint='set stateful = "allow" where that is meant')
        if back is not None:  # first, or another worker would find the refusal and nowhere to go
            self._context.operator_requests.order_rollback(back)
        self._context.reject(reject_entry(error, entry), self._committer.kept)


_NICENESS = 10
_LOOK_S = 0.05


@dataclass(frozen=True)
class Checked:
    """What one worker found. `generation`: that it answers with; 0 while it has none."""

    worker: int
    generation: int = 0
    version: str = ""
    tensors: int = 0
    differing: Sequence[str] = ()
    problem: str = ""


def ask_workers(
    operator_requests: OperatorRequests, living: Callable[[], set[int]], wake: Callable[[], None], timeout_s: float
) -> list[Checked]:
    """Have all workers compare, and return their answers by process id; raises `OperationError` when one is late."""
    missing = living()
    if not missing:
        raise OperationError("expected living workers, found none", hint="start the server")
    id, until_s = operator_requests.order_check(), time.monotonic() + timeout_s
    answers = f"checked-{id}-*.json"
    wake()
    try:
        while True:
            found = [Checked(**json.loads(path.read_bytes())) for path in operator_requests.root.glob(answers)]
            missing = (missing & living()) - {checked.worker for checked in found}
            if not missing:
                return sorted(found, key=lambda checked: checked.worker)
            if time.monotonic() > until_s:
                late = ", ".join(map(str, sorted(missing)))
                message = f"expected answers of all workers in {timeout_s:g} s; not answered: {late}"
                raise OperationError(message, hint="wait longer with: python -m serve verify --live --timeout SECONDS")
            time.sleep(_LOOK_S)
    finally:
        operator_requests.withdraw_check()
        for path in list(operator_requests.root.glob(answers)):
            path.unlink(missing_ok=True)


class LiveCheck:
    """Carries out such orders in one worker."""

    def __init__(self, context: Context, changed_weights: ChangedWeights) -> None:
        self._context, self._changed_weights = context, changed_weights
        self._last, self._proven_s = "", time.monotonic()
        self._proof: BackgroundTask[None] | None = None

    def attend(self, loader: ModelLoader) -> None:
        """Begin what is ordered, or what the policy asks for from time to time, beside everything else."""
        every_s = self._context.policy.live_proof_s
        is_due = every_s and time.monotonic() > self._proven_s + every_s
        if is_due and (self._proof is None or self._proof.wait(0)):  # one may take longer than that
            self._proven_s = time.monotonic()
            self._proof = BackgroundTask(lambda: self._carry_out(loader), "check", _NICENESS)
        id = self._context.operator_requests.check()
        if id and id != self._last:
            self._last = id
            BackgroundTask(lambda: self._carry_out(loader, id), "check", _NICENESS)

    def _carry_out(self, loader: ModelLoader, id: str = "") -> None:
        pid = os.getpid()
        checked = Checked(pid, problem="no model is live")
        try:
            with self._context.slot.lease() as generation:
                provenance = generation.provenance
                checked = Checked(pid, provenance.generation, provenance.version)
                tensors, differing = loader.compare(generation.predictor)
                checked = replace(checked, tensors=tensors, differing=differing)
        except Exception as error:
            checked = replace(checked, problem=explain(error))
        if checked.differing:
            self._changed_weights.name(generation, list(checked.differing))
        if id:
            path = self._context.operator_requests.root / f"checked-{id}-{pid}.json"
            durable_files.replace_file(path, json.dumps(asdict(checked)).encode())
