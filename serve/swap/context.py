"""The context of a reloader: the objects of one worker, and the protocols of its loader and its committer.

When and with whom a worker swaps is `serve.swap.host_committer` (all workers of a host at once) or
`serve.swap.worker_committer` (each worker for itself).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Protocol

from serve.source.observation import Ignore

if TYPE_CHECKING:
    from pathlib import Path

    from serve.checkpoint.manifest import Manifest, Stored
    from serve.events.event_log import EventLog
    from serve.model.slot import Slot
    from serve.model.torch_predictor import TorchPredictor
    from serve.rollout.decision import Rule
    from serve.rollout.guard import Guard
    from serve.source.local import LocalSource
    from serve.source.observation import Wait
    from serve.store.checkpoint_store import Store
    from serve.store.ledger import Entry, Ledger
    from serve.store.operator_requests import OperatorRequests, Rollback
    from serve.store.quarantine import Quarantine, Rejection
    from serve.swap.seen_checkpoints import Unserved


class Loaded(Protocol):
    """A model that is ready to be swapped in; `serve.model.loader.Loaded` is the one there is."""

    @property
    def predictor(self) -> TorchPredictor:
        """Answers requests."""

    @property
    def format(self) -> str:
        """Of the checkpoint."""

    @property
    def load_s(self) -> float:
        """Seconds for building the module and attaching the weights."""

    @property
    def warm_up_s(self) -> float:
        """Seconds for answering the example."""


class Loader(Protocol):
    """Makes models from checkpoints; `serve.model.loader.ModelLoader` is the one there is."""

    def preview(self, path: Path, manifest: Manifest) -> None:
        """Refuse what the first bytes of a checkpoint prove, before it is copied."""

    def load(self, stored: Stored, manifest: Manifest) -> Loaded:
        """Load, check and warm up one model; the manifest is that of `Entry.marker`."""

    def compare(self, predictor: TorchPredictor) -> tuple[int, list[str]]:
        """Compare a model in memory with its checkpoint: how many tensors, and which differ."""


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

    def boot(self, loader: Loader) -> None:
        """Make the committed generation live in a worker that starts."""

    def come_back(self, loader: Loader) -> None:
        """Make the committed generation live again in a worker that was unloaded."""

    def attend(self, loader: Loader) -> bool:
        """Take part in what other workers have begun, or make live what is committed; return whether there was any."""

    def move(self, loader: Loader, stored: Stored, proposed: Entry) -> Ignore | Wait:
        """Make an admitted checkpoint live, unless what is live has its content; raises `LedgerError`."""

    def is_done(self, order: Rollback) -> bool:
        """Say whether a rollback was carried out."""

    def report(self) -> None:
        """State in the host's table what this worker answers with."""

    def kept(self) -> frozenset[str]:
        """Return the sha256 of what must stay in the store, even where the disk is full."""

    def leave(self) -> None:
        """Take part no more; the worker ends."""
