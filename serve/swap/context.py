"""The context of a reloader: the objects of one worker, made from its settings.

When and with whom a worker swaps is `serve.swap.host_committer` (all workers of a host at once) or
`serve.swap.worker_committer` (each worker for itself)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Union

from serve.policy import Policy
from serve.rollout.decision import Rule, probation_of, rollout_of
from serve.rollout.evidence_board import Guard
from serve.settings.settings import CANARY, Settings
from serve.source.observation import Ignore
from serve.source.remote import make_place
from serve.store.checkpoint_store import Store
from serve.store.ledger import Ledger
from serve.store.operator_requests import OperatorRequests
from serve.store.quarantine import Quarantine, Rejection
from serve.swap.host_committer import HostCommitter
from serve.swap.seen_checkpoints import Unserved
from serve.swap.worker_committer import WorkerCommitter

if TYPE_CHECKING:
    from serve.events.event_log import EventLog
    from serve.model.slot import Slot
    from serve.source.local import LocalSource


@dataclass(frozen=True)
class Context:
    """What a committer works with."""

    settings: Settings
    source: LocalSource
    store: Store
    slot: Slot
    ledger: Ledger
    quarantine: Quarantine
    unserved: Unserved
    operator_requests: OperatorRequests
    log: EventLog
    env_digest: str | None
    guard: Guard
    probation: Rule | None
    policy: Policy

    def reject(self, rejection: Rejection, needed: Callable[[], frozenset[str]]) -> Ignore:
        """Quarantine something, log it once on this host, and drop the copy of what can never serve."""
        if rejection.is_lasting and rejection.sha256 and rejection.sha256 not in needed():
            with contextlib.suppress(OSError):  # the next prune finds it
                self.store.drop(rejection.sha256)
        if self.quarantine.add(rejection):
            why = {"code": rejection.code, "reason": rejection.reason, "will_retry": not rejection.is_lasting}
            known = {"sha256": rejection.sha256 or None, "version": rejection.version or None}
            self.log.emit("refused", checkpoint=str(self.source.directory / rejection.name), **why, **known)
        return Ignore(f"refused: {rejection.reason}")


# Who makes what was admitted live: all workers of the host at once, or each worker for itself.
Committer = Union[HostCommitter, WorkerCommitter]


def make_context(
    settings: Settings, slot: Slot, log: EventLog, env_digest: str | None, read_judge: Callable[[], str], start: str
) -> Context:
    """Make the context; nothing is started or written. `Quarantine` describes the last two arguments."""

    def report_damage(expected: str, found: str) -> None:
        log.emit("store_damaged", sha256=expected, reason=f"the sha256: expected {expected}, found {found}")

    store, rule, rollout = Store(settings.store, report_damage), probation_of(settings), rollout_of(settings)
    slower = next((one.slower for one in (rollout, rule) if one is not None), 0.0)
    is_canary = settings.label == CANARY
    return Context(
        settings=settings, source=make_place(settings.checkpoints), store=store, slot=slot, ledger=Ledger(store),
        quarantine=Quarantine(settings.store, read_judge, start), unserved=Unserved(settings.store),
        operator_requests=OperatorRequests(settings.store), log=log, env_digest=env_digest,
        guard=Guard(settings.retry_spoiled, slower, rollout is not None, is_canary, settings.drift_share),
        probation=rule, policy=Policy(os.environ, env_digest),
    )  # fmt: skip


def make_committer(context: Context) -> Committer:
    """Make the committer that the settings name, unless it is a fleet's."""
    settings = context.settings
    if settings.commit == "worker":
        return WorkerCommitter(context, settings.store)
    return HostCommitter(context, settings.store, settings.commit_timeout_s)
