"""Committing in each worker for itself (`SERVE_COMMIT=worker`).

Workers swap independently of each other, so for some time they answer with different generations; the ledger gives one
commit the same number in all of them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from serve.checkpoint.manifest import Stored, parse_marker
from serve.source.observation import SERVED, Ignore, Wait
from serve.store.quarantine import explain, reject_entry
from serve.swap.generation import kept, log_live, make, prune, restore
from serve.swap.shared_state import Membership, SharedState
from serve.system.resources import used_bytes

if TYPE_CHECKING:
    from serve.model.loader import ModelLoader
    from serve.store.ledger import Entry
    from serve.store.operator_requests import Rollback
    from serve.swap.context import Context

_AGAIN_S = 2.0


class WorkerCommitter:
    """Makes a candidate live as soon as this worker has prepared it."""

    is_joined = True  # it may answer; no other worker decides

    def __init__(self, context: Context, root: Path) -> None:
        self._context, self._root = context, root
        self._shared_state: SharedState | None = None
        self._membership: Membership | None = None
        self._boot_at_s, self._is_reported = 0.0, False

    @property
    def turn(self) -> int:
        """A number that changes when an operator asks for something."""
        return self._shared_state.turn if self._shared_state is not None else 0

    def report(self) -> None:
        """State in the host's table that this worker lives, and what it answers with."""
        with contextlib.suppress(OSError):  # a full disk; the next look tries again
            if self._membership is None:  # not before the fork: its locks belong to one process
                self._root.mkdir(parents=True, exist_ok=True)
                self._shared_state = SharedState(self._root / "word")
                membership = Membership(self._root / "workers", self._shared_state)
                membership.join(0)
                self._membership = membership
            self._membership.update(live=self._context.slot.number)

    def boot(self, loader: ModelLoader) -> None:
        """Make the committed generation live."""
        self._boot_at_s = time.monotonic() + _AGAIN_S
        entry = self._context.ledger.last()
        try:
            if entry is not None:
                restore(self._context, loader, entry)
        except Exception as error:  # the newest checkpoint may still be good; only the way back is lost
            if not self._is_reported:
                self._context.log.emit("not_restored", reason=explain(error))
            self._is_reported = True

    def come_back(self, loader: ModelLoader) -> None:
        """Make the committed generation live again, in a worker that was unloaded."""
        self.boot(loader)

    def attend(self, loader: ModelLoader) -> bool:
        """Try again to make live what is committed, where that has failed; there are no other workers to attend to."""
        if self._context.slot.live is None and time.monotonic() > self._boot_at_s:
            self.boot(loader)
            self.report()
        if self._membership is None:
            self.report()
        return False

    def kept(self) -> frozenset[str]:
        """Return the sha256 of what must stay in the store: what is kept of the generations."""
        return kept(self._context)

    def leave(self) -> None:
        """Leave the host's table; no other worker waits for this one."""
        if self._membership is not None:
            self._membership.leave()

    def is_done(self, order: Rollback) -> bool:
        """Say whether this worker carried out a rollback."""
        entries = self._context.ledger.up_to(self._context.slot.number)
        return any(entry.fingerprint == order.fingerprint for entry in entries)

    def move(self, loader: ModelLoader, stored: Stored, proposed: Entry) -> Ignore | Wait:
        """Make an admitted checkpoint live in this worker."""
        live, before_bytes = self._context.slot.live, used_bytes()
        if live is not None and (live.provenance.sha256, live.provenance.version) == (stored.sha256, proposed.version):
            return SERVED
        try:
            loaded = loader.load(stored, parse_marker(proposed.marker.encode()))
        except Exception as error:
            return self._context.reject(reject_entry(error, proposed), self.kept)
        started_s = time.monotonic()
        entry = self._context.ledger.commit(proposed, live.provenance.generation if live is not None else 0)
        if live is not None and entry.generation <= live.provenance.generation:
            return Wait("another worker was faster", 0.0)
        generation = make(self._context, loaded, stored, entry, before_bytes)
        previous = self._context.slot.swap(generation)
        log_live(self._context, "swapped", generation, previous, time.monotonic() - started_s)
        self.report()
        self._context.quarantine.forget(entry.sha256)
        prune(self._context, self.kept)
        return SERVED
