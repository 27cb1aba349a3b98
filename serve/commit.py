"""From a candidate to the live generation: admit to the store, load, number, swap; later, retire.

Workers swap independently of each other. The ledger gives one commit the same number in all of them.
"""

from __future__ import annotations

import time
from typing import Protocol

from serve.checkpoint import Load
from serve.ledger import Entry, Ledger
from serve.logs import EventLog
from serve.manifest import Manifest, parse_marker
from serve.provenance import Provenance
from serve.slot import Generation, Predictor, Slot
from serve.store import Store, Stored

# How many digits of the sha256 stand for a version that no marker named.
_SHORT_SHA256 = 12


class Loaded(Protocol):
    """A model that is ready to be swapped in; `serve.model.Loaded` is the one there is."""

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
    """Makes models from checkpoints; `serve.model.ModelLoader` is the one there is."""

    def load(self, stored: Stored, manifest: Manifest) -> Loaded:
        """Load, check and warm up one model.

        Args:
            stored: the proven checkpoint.
            manifest: what its marker states; `serve.manifest.parse_marker` of `Entry.marker`.
        """


class Committer:
    """Makes candidates live in one worker.

    Args:
        store: holds the proven copies.
        slot: gets the live generation.
        log: is told each change of state.
        name: of the model.
        env_digest: of the environment that answers, where it is known.
        keep: how many generations the store keeps.
    """

    def __init__(self, store: Store, slot: Slot, log: EventLog, name: str, env_digest: str | None, keep: int) -> None:
        self._store, self._slot, self._log = store, slot, log
        self._ledger = Ledger(store)
        self._name, self._env_digest, self._keep = name, env_digest, keep

    def committed(self) -> Entry | None:
        """Return the generation that the host has committed, or `None` before the first.

        Raises:
            LedgerError: the file of generations is damaged.
            OSError: it cannot be read.
        """
        return self._ledger.last()

    def restore(self, loader: Loader, entry: Entry) -> bool:
        """Make the committed generation live in a worker that starts late.

        Args:
            loader: makes the model.
            entry: the committed generation.

        Returns:
            Whether its bytes were still in the store.

        Raises:
            CheckpointError: the model class does not take these bytes any more.
            ModelError: the model class is at fault.
            OSError: the store cannot be read.
        """
        stored = self._store.find(entry.sha256)
        if stored is None:
            return False
        self._swap("restored", loader.load(stored, parse_marker(entry.marker.encode())), stored, entry)
        return True

    def commit(self, loader: Loader, candidate: Load) -> None:
        """Make a candidate live, unless what is live has the same content.

        Args:
            loader: makes the model.
            candidate: what was observed, and what its marker states.

        Raises:
            CheckpointError: the checkpoint is at fault.
            CheckpointMovedError: the checkpoint changed while it was read.
            ModelError: the model class is at fault.
            LedgerError: the generations cannot be numbered.
            StoreFullError: the store has no room.
            OSError: the checkpoint cannot be read or the store not be written.
        """
        stored = self._store.admit(candidate)
        proposed = _propose(candidate, stored)
        live = self._slot.live
        if live is not None and (live.provenance.sha256, live.provenance.version) == (stored.sha256, proposed.version):
            return
        loaded = loader.load(stored, candidate.manifest)
        entry = self._ledger.commit(proposed)
        if live is not None and entry.generation <= live.provenance.generation:
            return  # another worker was faster, and this one has followed it already
        self._swap("swapped", loaded, stored, entry)
        self._store.prune(self._ledger.recent_sha256(self._keep))

    def retire(self) -> None:
        """Let go of the generations that no request uses any more, here and not in a request's thread."""
        for generation in self._slot.take_drained():
            self._log.emit("retired", **_identify(generation))

    def _swap(self, event: str, loaded: Loaded, stored: Stored, entry: Entry) -> None:
        provenance = Provenance(self._name, entry.version, entry.generation, entry.sha256, self._env_digest)
        facts: dict[str, object] = {
            "checkpoint": entry.name,
            "size_bytes": stored.size_bytes,
            "format": loaded.format,
            "committed": entry.committed,
            "copy_s": round(stored.copy_s, 6),
            "load_s": round(loaded.load_s, 6),
            "warm_up_s": round(loaded.warm_up_s, 6),
        }
        started_s = time.monotonic()
        previous = self._slot.swap(Generation(loaded.predictor, provenance, facts))
        self._log.emit(
            event,
            generation=entry.generation,
            version=entry.version,
            sha256=entry.sha256,
            **facts,
            swap_s=round(time.monotonic() - started_s, 6),
            since_marker_s=round(time.time() - entry.marker_mtime_ns / 1e9, 3),
            previous=_identify(previous) if previous else None,
        )


def _propose(candidate: Load, stored: Stored) -> Entry:
    seen = candidate.observation
    return Entry(
        generation=0,
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        version=candidate.manifest.version or stored.sha256[:_SHORT_SHA256],
        name=seen.path.name,
        marker_mtime_ns=seen.marker.mtime_ns,
        fingerprint=seen.fingerprint,
        marker=seen.text.decode(errors="replace"),
    )


def _identify(generation: Generation) -> dict[str, object]:
    provenance = generation.provenance
    return {"generation": provenance.generation, "version": provenance.version, "sha256": provenance.sha256}
