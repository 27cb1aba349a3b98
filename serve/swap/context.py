"""The context of a committer: the objects of one worker, and the protocols of a loader and of what it loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from serve.checkpoint.manifest import Manifest
    from serve.checkpoint.stored import Stored
    from serve.events.event_log import EventLog
    from serve.model.predictor import Predictor
    from serve.model.slot import Slot
    from serve.rollout.decision import Rule
    from serve.rollout.guard import Guard
    from serve.source.local import LocalSource
    from serve.store.checkpoint_store import Store
    from serve.store.ledger import Ledger
    from serve.store.operator_requests import OperatorRequests
    from serve.store.quarantine import Quarantine
    from serve.swap.unserved import Unserved


class Loaded(Protocol):
    """A model that is ready to be swapped in; `serve.model.loader.Loaded` is the one there is."""

    @property
    def predictor(self) -> Predictor:
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
        """Load, check and warm up one model.

        Args:
            manifest: what its marker states; `serve.checkpoint.manifest.parse_marker` of `Entry.marker`.
        """

    def compare(self, predictor: Predictor) -> tuple[int, list[str]]:
        """Compare the weights of a model in memory with its checkpoint.

        Returns:
            How many tensors were compared, and the names of those that differ.
        """


@dataclass(frozen=True)
class Context:
    """What a committer works with."""

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
