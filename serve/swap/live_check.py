"""Checks of the weights in a worker's memory: for writes at each look, against the checkpoint when an operator asks.

The request is a file beside the store; each worker answers with another, and whoever asked deletes both.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable

from serve import durable_files
from serve.errors import OperationError
from serve.store.operator_requests import OperatorRequests
from serve.store.quarantine import explain
from serve.swap.background_task import BackgroundTask
from serve.swap.context import Context, Loader
from serve.swap.generation import identify

_NICENESS = 10
_LOOK_S = 0.05
# So many times as long as a look at the versions takes, none follows: it costs half a percent of a core at most.
_REST = 200


@dataclass(frozen=True)
class Checked:
    """What one worker found.

    Args:
        generation: that it answers with; 0 while it has none.
    """

    worker: int
    generation: int = 0
    version: str = ""
    tensors: int = 0
    differing: tuple[str, ...] = ()
    problem: str = ""


def ask_workers(
    operator_requests: OperatorRequests, living: Callable[[], set[int]], wake: Callable[[], None], timeout_s: float
) -> list[Checked]:
    """Order a comparison, wait for all workers, and return their answers by process id.

    Raises:
        OperationError: no worker is alive, or one has not answered in time.
    """
    missing = living()
    if not missing:
        hint = 'start the server; with commit = "worker" its workers cannot be asked'
        raise OperationError("expected living workers, found none", hint=hint)
    id, until_s = operator_requests.order_check(), time.monotonic() + timeout_s
    wake()
    try:
        while True:
            found = [_read(path) for path in _answers(operator_requests, id)]
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
        for path in _answers(operator_requests, id):
            path.unlink(missing_ok=True)


def _answers(operator_requests: OperatorRequests, id: str) -> list[Path]:
    return sorted(operator_requests.root.glob(f"checked-{id}-*.json"))


def _read(path: Path) -> Checked:
    stated = json.loads(path.read_bytes())
    return Checked(**{**stated, "differing": tuple(stated["differing"])})


class LiveCheck:
    """Carries out such orders in one worker."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last, self._next_look_s = "", 0.0

    def attend(self, loader: Loader) -> None:
        """Begin what is ordered, beside everything else."""
        id = self._context.operator_requests.check()
        if id and id != self._last:
            self._last = id
            BackgroundTask(lambda: self._carry_out(loader, id), "check", _NICENESS)

    def look(self) -> None:
        """Say which parameters and buffers of the live model have changed since it was loaded, once for each."""
        live = self._context.slot.live
        versions = getattr(live.predictor, "versions", None) if live is not None else None
        if live is None or versions is None or time.monotonic() < self._next_look_s:
            return
        began_s = time.monotonic()
        written = versions.written()
        self._next_look_s = began_s + _REST * (time.monotonic() - began_s)
        if set(written) - set(live.facts.get("changed_tensors", ())):  # type: ignore[call-overload]
            live.facts["changed_tensors"] = written
            self._context.log.emit("weights_changed", **identify(live), tensors=written)

    def _carry_out(self, loader: Loader, id: str) -> None:
        pid = os.getpid()
        checked = Checked(pid, problem="no model is live")
        try:
            with self._context.slot.lease() as generation:
                provenance = generation.provenance
                checked = Checked(pid, provenance.generation, provenance.version)
                tensors, differing = loader.compare(generation.predictor)
                checked = Checked(pid, provenance.generation, provenance.version, tensors, tuple(differing))
        except Exception as error:
            checked = Checked(pid, checked.generation, checked.version, problem=explain(error))
        if checked.differing:
            self._context.log.emit("weights_changed", **identify(generation), tensors=checked.differing)
        durable_files.replace_file(
            self._context.operator_requests.root / f"checked-{id}-{pid}.json", json.dumps(asdict(checked)).encode()
        )
