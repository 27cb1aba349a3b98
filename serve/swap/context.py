"""The context of a reloader: the objects of one worker, and the protocol of its committer.

When and with whom a worker swaps is `serve.swap.host_committer` (all workers of a host at once) or
`serve.swap.worker_committer` (each worker for itself).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Protocol

from serve.source.observation import Ignore

if TYPE_CHECKING:
    from serve.checkpoint.manifest import Stored
    from serve.events.event_log import EventLog
    from serve.model.loader import ModelLoader
    from serve.model.slot import Slot
    from serve.rollout.decision import Rule
    from serve.rollout.guard import Guard
    from serve.source.local import LocalSource
    from serve.source.observation import Wait
    from serve.store.checkpoint_store import Store
    from serve.store.ledger import Entry, Ledger
    from serve.store.operator_requests import OperatorRequests, Rollback
    from serve.store.quarantine import Quarantine, Rejection
    from serve.swap.seen_checkpoints import Unserved


@dataclass(frozen=True)
class Context:
    """What a committer works with. `may_change`: whether answering may change the weights (`stateful = "allow"`)."""

    source: LocalSource
    store: Store
    slot: Slot
    ledger: Ledger
    quarantine: Quarantine
    unserved: Unserved
    operator_requests: OperatorRequests
    log: EventLog
    name: str
    label: str
    env_digest: str | None
    keep: int
    guard: Guard
    probation: Rule | None
    may_change: bool = False

    def reject(self, rejection: Rejection, needed: Callable[[], frozenset[str]]) -> Ignore:
        """Quarantine something, log it once on this host, and drop the copy of what can never serve."""
        if rejection.is_lasting and rejection.sha256 and rejection.sha256 not in needed():
            with contextlib.suppress(OSError):  # the next prune finds it
                self.store.shelf.drop(rejection.sha256)
        if self.quarantine.add(rejection):
            self.log.emit(
                "refused",
                checkpoint=str(self.source.directory / rejection.name),
                code=rejection.code,
                reason=rejection.reason,
                will_retry=not rejection.is_lasting,
                sha256=rejection.sha256 or None,
                version=rejection.version or None,
            )
        return Ignore(f"refused: {rejection.reason}")


class Committer(Protocol):
    """Makes what was admitted live in one worker."""

    @property
    def turn(self) -> int:
        """A number that changes when there is something to attend to."""

    def boot(self, loader: ModelLoader) -> None:
        """Make the committed generation live in a worker that starts."""

    def come_back(self, loader: ModelLoader) -> None:
        """Make the committed generation live again in a worker that was unloaded."""

    def attend(self, loader: ModelLoader) -> bool:
        """Take part in what other workers have begun, or make live what is committed; return whether there was any."""

    def move(self, loader: ModelLoader, stored: Stored, proposed: Entry) -> Ignore | Wait:
        """Make an admitted checkpoint live, unless what is live has its content; raises `LedgerError`."""

    def is_done(self, order: Rollback) -> bool:
        """Say whether a rollback was carried out."""

    def report(self) -> None:
        """State in the host's table what this worker answers with."""

    def kept(self) -> frozenset[str]:
        """Return the sha256 of what must stay in the store, even where the disk is full."""

    def leave(self) -> None:
        """Take part no more; the worker ends."""
