"""Comparison of the weights in the workers' memory with their checkpoint, when an operator asks.

The request is a file beside the store; each worker answers with another, and whoever asked deletes both.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from serve import durable_files
from serve.errors import OperationError
from serve.store.quarantine import explain
from serve.swap.background_task import BackgroundTask

if TYPE_CHECKING:
    from serve.model.loader import ModelLoader
    from serve.store.operator_requests import OperatorRequests
    from serve.swap.changed_weights import ChangedWeights
    from serve.swap.context import Context

_NICENESS = 10
_LOOK_S = 0.05


@dataclass(frozen=True)
class Checked:
    """What one worker found. `generation`: that it answers with; 0 while it has none."""

    worker: int
    generation: int = 0
    version: str = ""
    tensors: int = 0
    differing: tuple[str, ...] = ()
    problem: str = ""


def ask_workers(
    operator_requests: OperatorRequests, living: Callable[[], set[int]], wake: Callable[[], None], timeout_s: float
) -> list[Checked]:
    """Have all workers compare, and return their answers by process id; raises `OperationError` when one is late."""
    missing = living()
    if not missing:
        raise OperationError("expected living workers, found none", hint="start the server")
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

    def __init__(self, context: Context, changed_weights: ChangedWeights) -> None:
        self._context, self._changed_weights = context, changed_weights
        self._last = ""

    def attend(self, loader: ModelLoader) -> None:
        """Begin what is ordered, beside everything else."""
        id = self._context.operator_requests.check()
        if id and id != self._last:
            self._last = id
            BackgroundTask(lambda: self._carry_out(loader, id), "check", _NICENESS)

    def _carry_out(self, loader: ModelLoader, id: str) -> None:
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
            self._changed_weights.name(generation, list(checked.differing))
        durable_files.replace_file(
            self._context.operator_requests.root / f"checked-{id}-{pid}.json", json.dumps(asdict(checked)).encode()
        )
