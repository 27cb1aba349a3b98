"""Assembly of one worker's reloader of one model from its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from serve.rollout.guard import Guard
from serve.rollout.rules import probation_of, rollout_of
from serve.settings.settings import CANARY
from serve.source.remote import make_place
from serve.store.checkpoint_store import Store
from serve.store.ledger import Ledger
from serve.store.operator_requests import OperatorRequests
from serve.store.quarantine import Quarantine
from serve.swap.context import Context
from serve.swap.host_committer import HostCommitter
from serve.swap.reloader import Pace, Reloader
from serve.swap.seen_checkpoints import Unserved
from serve.swap.worker_committer import WorkerCommitter

if TYPE_CHECKING:
    from serve.events.event_log import EventLog
    from serve.model.slot import Slot
    from serve.settings.settings import Settings
    from serve.swap.context import Committer, Loader


def make_context(
    settings: Settings, slot: Slot, log: EventLog, env_digest: str | None, read_judge: Callable[[], str], start: str
) -> Context:
    """Make the context; nothing is started or written. `Quarantine` describes the last two arguments."""

    def report_damage(expected: str, found: str) -> None:
        log.emit("store_damaged", sha256=expected, reason=f"the sha256: expected {expected}, found {found}")

    store, rule, rollout = Store(settings.store, report_damage), probation_of(settings), rollout_of(settings)
    slower = next((one.slower for one in (rollout, rule) if one is not None), 0.0)
    return Context(
        source=make_place(settings.checkpoints),
        store=store,
        slot=slot,
        ledger=Ledger(store),
        quarantine=Quarantine(settings.store, read_judge, start),
        unserved=Unserved(settings.store),
        operator_requests=OperatorRequests(settings.store),
        log=log,
        name=settings.name,
        label=settings.label,
        env_digest=env_digest,
        keep=settings.keep,
        may_change=settings.stateful == "allow",
        guard=Guard(settings.retry_spoiled, slower, rollout is not None, settings.label == CANARY),
        probation=rule,
    )


def make_reloader(
    settings: Settings, context: Context, make_loader: Callable[[], Loader], committer: Committer | None = None
) -> Reloader:
    """Make the reloader; its `run` begins the work.

    Args:
        committer: of a fleet; without it the setting `commit` chooses between those of one host.
    """
    watch = settings.watch if context.source.has_events else "poll"
    pace = Pace(settings.poll_s, settings.settle_s, watch)
    return Reloader(context, committer or _make_committer(settings, context), pace, make_loader)


def _make_committer(settings: Settings, context: Context) -> Committer:
    if settings.commit == "worker":
        return WorkerCommitter(context, settings.store)
    return HostCommitter(context, settings.store, settings.commit_timeout_s)
