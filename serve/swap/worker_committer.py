"""Committing in each worker for itself (`SERVE_COMMIT=worker`).

Workers swap independently of each other, so for some time they answer with different generations; the ledger gives one
commit the same number in all of them.
"""

from __future__ import annotations

import time

from serve.checkpoint.manifest import parse_marker
from serve.checkpoint.stored import Stored
from serve.source.observation import Ignore, Wait
from serve.store.ledger import Entry
from serve.store.operator_requests import Rollback
from serve.store.rejection import explain, refuse_entry
from serve.swap.admission import say_refused
from serve.swap.context import Loader, Parts
from serve.swap.generation import committed, make, prune, restore, say_live
from serve.system.process_memory import used_bytes


class WorkerCommitter:
    """Makes a candidate live as soon as this worker has prepared it.

    Args:
        parts: what it works with.
    """

    turn = 0  # there is never anything to attend to

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def boot(self, loader: Loader) -> None:
        """Make the committed generation live.

        Args:
            loader: makes the model.
        """
        entry = self._parts.ledger.last()
        try:
            if entry is not None:
                restore(self._parts, loader, entry)
        except Exception as error:  # the newest checkpoint may still be good; only the way back is lost
            self._parts.log.emit("not_restored", reason=explain(error))

    def come_back(self, loader: Loader) -> None:
        """Make the committed generation live again, after `is_unloaded`.

        Args:
            loader: makes the model.
        """
        self.boot(loader)

    def attend(self, loader: Loader) -> bool:
        """Do nothing: every worker finds for itself what there is.

        Args:
            loader: makes the model.
        """
        return False

    def leave(self) -> None:
        """Do nothing: nobody waits for this worker."""

    def is_done(self, order: Rollback) -> bool:
        """Say whether this worker carried out a rollback.

        Args:
            order: what an operator has ordered.
        """
        return any(entry.fingerprint == order.fingerprint for entry in committed(self._parts))

    def move(self, loader: Loader, stored: Stored, proposed: Entry) -> Ignore | Wait:
        """Make an admitted checkpoint live in this worker.

        Args:
            loader: makes the model.
            stored: the proven copy.
            proposed: what is to be committed.

        Returns:
            What became of it.
        """
        live, before_bytes = self._parts.slot.live, used_bytes()
        if live is not None and (live.provenance.sha256, live.provenance.version) == (stored.sha256, proposed.version):
            return Ignore("it is being served", is_final=True)
        try:
            loaded = loader.load(stored, parse_marker(proposed.marker.encode()))
        except Exception as error:
            return say_refused(self._parts, refuse_entry(error, proposed))
        started_s = time.monotonic()
        entry = self._parts.ledger.commit(proposed)
        if live is not None and entry.generation <= live.provenance.generation:
            return Ignore("another worker was faster", is_final=True)
        generation = make(self._parts, loaded, stored, entry, before_bytes)
        previous = self._parts.slot.swap(generation)
        say_live(self._parts.log, "swapped", generation, previous, time.monotonic() - started_s)
        self._parts.quarantine.forget(entry.sha256)
        prune(self._parts)
        return Ignore("it is being served", is_final=True)
