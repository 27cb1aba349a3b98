"""From a candidate to the live generation, as far as every way of committing shares it.

Admit to the store, check the quarantine, load, swap, say so; later, retire. When and with whom a worker swaps is
`serve.together` (all workers of a host at once) or `serve.alone` (each worker for itself).
"""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from serve.checkpoint import Ignore, Load, Refuse, Wait
from serve.errors import CheckpointMovedError
from serve.ledger import Entry, Ledger
from serve.logs import EventLog
from serve.manifest import Manifest, parse_marker
from serve.orders import Orders, Rollback
from serve.place import Place
from serve.predictor import Predictor
from serve.process import trim_memory, used_bytes
from serve.provenance import Provenance
from serve.quarantine import Quarantine, Refusal
from serve.refusal import code_of, explain, refuse_entry
from serve.slot import Generation, Slot
from serve.store import Store, Stored

# How many digits of the sha256 stand for a version that no marker named.
_SHORT_SHA256 = 12
_AGAIN_S = 0.2
# The kernel stamps files with a clock that may be a tick behind.
_CTIME_SLACK_S = 1.0


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


@dataclass(frozen=True)
class Parts:
    """What a committer works with.

    Args:
        place: the watched place.
        store: holds the proven copies.
        slot: gets the live generation.
        ledger: numbers the generations.
        quarantine: keeps what was refused.
        orders: tells what operators want.
        log: is told each change of state.
        name: of the model.
        env_digest: of the environment that answers, where it is known.
        keep: how many generations the store keeps.
    """

    place: Place
    store: Store
    slot: Slot
    ledger: Ledger
    quarantine: Quarantine
    orders: Orders
    log: EventLog
    name: str
    label: str
    env_digest: str | None
    keep: int


class Committer(abc.ABC):
    """Makes candidates live in one worker.

    Args:
        parts: what it works with.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._is_stopping = False

    @abc.abstractmethod
    def boot(self, loader: Loader) -> None:
        """Make the committed generation live in a worker that starts.

        Args:
            loader: makes the model.
        """

    @abc.abstractmethod
    def attend(self, loader: Loader) -> bool:
        """Take part in what the other workers of the host have begun.

        Args:
            loader: makes the model.

        Returns:
            Whether there was something.
        """

    @abc.abstractmethod
    def _move(self, loader: Loader, stored: Stored, proposed: Entry) -> Ignore | Wait:
        """Make a proven candidate live."""

    @property
    def turn(self) -> int:
        """A number that changes when there is something to attend to."""
        return 0

    def leave(self) -> None:
        """Take part no more; the worker ends."""
        self._is_stopping = True

    def committed(self) -> list[Entry]:
        """Return the generations up to the live one of this worker, the oldest first.

        Raises:
            LedgerError: the file of generations is damaged.
            OSError: it cannot be read.
        """
        live = self._parts.slot.live
        number = live.provenance.generation if live else 0
        return [entry for entry in self._parts.ledger.read() if entry.generation <= number]

    def commit(self, loader: Loader, candidate: Load) -> Ignore | Wait:
        """Make a candidate live, unless what is live has the same content.

        Args:
            loader: makes the model.
            candidate: what was observed, and what its marker states.

        Returns:
            What became of it.

        Raises:
            LedgerError: the generations cannot be numbered.
            OSError: the store cannot be written.
        """
        seen = candidate.observation
        marker = seen.text.decode(errors="replace")
        if candidate.manifest.sha256 is not None:
            record = self._parts.quarantine.find_sha256(candidate.manifest.sha256, marker)
            if record is not None:
                return Ignore(f"refused: {record.reason}")
        try:
            stored = self._parts.store.admit(candidate)
        except CheckpointMovedError as error:
            return Wait(error.message, _AGAIN_S)
        except Exception as error:
            return self.refuse(Refuse(seen, code_of(error), explain(error)), error)
        record = self._parts.quarantine.find_sha256(stored.sha256, marker)
        if record is not None:
            self._parts.quarantine.recognize(record, seen.fingerprint)
            return Ignore(f"refused: {record.reason}")
        return self._move(loader, stored, _propose(candidate, stored))

    def roll_back(self, loader: Loader) -> Ignore | Wait | None:
        """Carry out the last rollback that was ordered, unless it is done.

        Args:
            loader: makes the model.

        Returns:
            What became of it; `None` when nothing is ordered.
        """
        order = self._parts.orders.rollback()
        if order is None or self._is_done(order) or self._parts.quarantine.find(order.fingerprint):
            return None
        entries = [entry for entry in self._parts.ledger.read() if entry.sha256 == order.sha256]
        stored = self._parts.store.find(order.sha256)
        if stored is None or not entries:
            reason = f"the rollback to {order.version}: its checkpoint is not in the store any more"
            return self.say_refused(Refusal(order.version, "store", reason, order.fingerprint, version=order.version))
        return self._move(loader, stored, order.propose(entries[-1]))

    def is_pinned(self) -> str | None:
        """Say why there are no automatic moves, or `None` when there are."""
        pin = self._parts.orders.pin()
        return None if pin is None else f"pinned to version {pin.version} since {pin.pinned}"

    def refuse(self, action: Refuse, error: BaseException | None = None) -> Ignore:
        """Put an observation into quarantine.

        Args:
            action: what was seen, and what is wrong with it.
            error: what was raised, where something was.

        Returns:
            The same in a form that asks for nothing more.
        """
        seen = action.observation
        is_lasting = error is None or refuse_entry(error, _NOBODY).is_lasting
        marker = seen.text.decode(errors="replace")
        refusal = Refusal(
            seen.path.name, action.code, action.reason, seen.fingerprint, is_lasting=is_lasting, marker=marker
        )
        return self.say_refused(refusal)

    def say_refused(self, refusal: Refusal) -> Ignore:
        """Put something into quarantine, and say so once on this host.

        Args:
            refusal: what, and why.
        """
        if self._parts.quarantine.add(refusal):
            self._parts.log.emit(
                "refused",
                checkpoint=str(self._parts.place.directory / refusal.name),
                code=refusal.code,
                reason=refusal.reason,
                will_retry=not refusal.is_lasting,
                sha256=refusal.sha256 or None,
                version=refusal.version or None,
            )
        return Ignore(f"refused: {refusal.reason}")

    def retire(self) -> None:
        """Free the generations that no request uses any more, here and not in a request's thread."""
        drained = self._parts.slot.take_drained()
        while drained:
            generation = drained.pop(0)
            facts, before_bytes, started_s = _identify(generation), used_bytes(), time.monotonic()
            release = getattr(generation.predictor, "release", None)
            if release is not None:
                release()
            del generation, release
            trim_memory()
            self._parts.log.emit(
                "retired",
                **facts,
                free_s=round(time.monotonic() - started_s, 6),
                memory_before_bytes=before_bytes,
                memory_after_bytes=used_bytes(),
            )

    def _is_done(self, order: Rollback) -> bool:
        return any(entry.fingerprint == order.fingerprint for entry in self._parts.ledger.read())

    def _restore(self, loader: Loader, entry: Entry) -> bool:
        """Make a committed generation live; `False` when its bytes are not in the store any more."""
        stored = self._parts.store.find(entry.sha256) or self._fetch_again(entry)
        if stored is None:
            return False
        before_bytes = used_bytes()
        loaded = loader.load(stored, parse_marker(entry.marker.encode()))
        generation = self._make(loaded, stored, entry, before_bytes)
        self._say_live("restored", generation, self._parts.slot.swap(generation), 0.0)
        return True

    def _fetch_again(self, entry: Entry) -> Stored | None:
        """Take bytes that the store has lost from the watched place, where they are still there."""
        for seen in self._parts.place.observe():
            if seen.fingerprint == entry.fingerprint or entry.sha256.encode() in seen.text:
                return self._parts.store.admit(Load(seen, Manifest(sha256=entry.sha256)))
        return None

    def _make(self, loaded: Loaded, stored: Stored, entry: Entry, before_bytes: int) -> Generation:
        trim_memory()  # loading and warming up leave behind what was needed only once
        parts = self._parts
        provenance = Provenance(
            parts.name, entry.version, entry.generation, entry.sha256, parts.env_digest, parts.label
        )
        facts: dict[str, object] = {
            "checkpoint": entry.name,
            "cause": entry.cause,
            "size_bytes": stored.size_bytes,
            "format": loaded.format,
            "committed": entry.committed,
            "marker_mtime_ns": entry.marker_mtime_ns,
            "copy_s": round(stored.copy_s, 6),
            "hash_s": round(stored.hash_s, 6),
            "load_s": round(loaded.load_s, 6),
            "warm_up_s": round(loaded.warm_up_s, 6),
            "memory_before_bytes": before_bytes,
            "memory_after_bytes": used_bytes(),
        }
        return Generation(loaded.predictor, provenance, facts)

    def _say_live(self, event: str, generation: Generation, previous: Generation | None, commit_s: float) -> None:
        facts = dict(generation.facts)
        marker_mtime_ns = facts.pop("marker_mtime_ns")
        since_s = time.time() - marker_mtime_ns / 1e9 if isinstance(marker_mtime_ns, int) else None
        self._parts.log.emit(
            event,
            **_identify(generation),
            **facts,
            commit_s=round(commit_s, 6),
            since_marker_s=None if since_s is None else round(since_s, 3),
            previous=_identify(previous) if previous else None,
        )

    def _prune(self) -> None:
        last = self._parts.ledger.last()
        if last is not None:
            before_s = datetime.fromisoformat(last.committed).timestamp() - _CTIME_SLACK_S
            self._parts.store.prune(self._parts.ledger.recent_sha256(self._parts.keep), before_s)


_NOBODY = Entry(0, "", 0, "", "", 0, "")


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
        marker_generation=seen.generation,
        marker=seen.text.decode(errors="replace"),
    )


def _identify(generation: Generation) -> dict[str, object]:
    provenance = generation.provenance
    return {"generation": provenance.generation, "version": provenance.version, "sha256": provenance.sha256}
