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
from serve.swap.committer import Committer
from serve.swap.context import Loader
from serve.swap.generation import make, say_live
from serve.system.process_memory import used_bytes


class WorkerCommitter(Committer):
    """Makes a candidate live as soon as this worker has prepared it."""

    def boot(self, loader: Loader) -> None:
        """Make the committed generation live.

        Args:
            loader: makes the model.
        """
        entry = self._parts.ledger.last()
        try:
            if entry is not None:
                self._restore(loader, entry)
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

    def _is_done(self, order: Rollback) -> bool:
        return any(entry.fingerprint == order.fingerprint for entry in self.committed())

    def _move(self, loader: Loader, stored: Stored, proposed: Entry) -> Ignore | Wait:
        live, before_bytes = self._parts.slot.live, used_bytes()
        if live is not None and (live.provenance.sha256, live.provenance.version) == (stored.sha256, proposed.version):
            return Ignore("it is being served", is_final=True)
        try:
            loaded = loader.load(stored, parse_marker(proposed.marker.encode()))
        except Exception as error:
            return self.say_refused(refuse_entry(error, proposed))
        started_s = time.monotonic()
        entry = self._parts.ledger.commit(proposed)
        if live is not None and entry.generation <= live.provenance.generation:
            return Ignore("another worker was faster", is_final=True)
        generation = make(self._parts, loaded, stored, entry, before_bytes)
        previous = self._parts.slot.swap(generation)
        say_live(self._parts.log, "swapped", generation, previous, time.monotonic() - started_s)
        self._parts.quarantine.forget(entry.sha256)
        self._prune()
        return Ignore("it is being served", is_final=True)
