"""From a candidate to the live generation, as far as every way of committing shares it.

Admit to the store, check the quarantine, load, swap, say so; later, retire. When and with whom a worker swaps is
`serve.swap.host_committer` (all workers of a host at once) or `serve.swap.worker_committer` (each worker for itself).
"""

from __future__ import annotations

import abc
from datetime import datetime

from serve.checkpoint.manifest import Manifest, parse_marker
from serve.checkpoint.stored import Stored
from serve.errors import CheckpointMovedError
from serve.source.observation import Ignore, Load, Refuse, Wait
from serve.store.ledger import Entry
from serve.store.operator_requests import Rollback
from serve.store.quarantine import Refusal
from serve.store.rejection import code_of, explain, refuse_entry
from serve.swap.background_task import Preparation
from serve.swap.context import Loader, Parts
from serve.swap.generation import free_first, identify, make, say_live
from serve.system.process_memory import used_bytes

# How many digits of the sha256 stand for a version that no marker named.
_SHORT_SHA256 = 12
_AGAIN_S = 0.2
# With 400 MB and all cores busy, the p99 during the copy fell from twice to 1.2 times the one without, and the copy
# took a tenth longer (bench/swap.py).
_NICENESS = 10
_LARGE_BYTES = 8 * 1024 * 1024
_LOOK_S = 0.2
# The kernel stamps files with a clock that may be a tick behind.
_CTIME_SLACK_S = 1.0


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
            stored = self._admit(candidate)
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

    def is_unloaded(self) -> bool:
        """Serve nothing where that is ordered, and say whether it is; what was live drains."""
        if not self._parts.orders.is_unloaded():
            return False
        live = self._parts.slot.live
        if live is not None:
            self._parts.slot.vacate()
            self._parts.log.emit("unloaded", **identify(live))
        return True

    def come_back(self, loader: Loader) -> None:  # noqa: B027 - who attends to others comes back by that
        """Make the committed generation live again, after `is_unloaded`.

        Args:
            loader: makes the model.
        """

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
            free_first(drained, self._parts.log)

    def _admit(self, candidate: Load) -> Stored:
        """Admit a candidate to the store; a large one while requests go first."""
        seen = candidate.observation.checkpoint
        if seen is None or seen.size_bytes < _LARGE_BYTES:
            return self._parts.store.admit(candidate)
        copying = Preparation(lambda: self._parts.store.admit(candidate), "copy", _NICENESS)
        while not copying.wait(_LOOK_S):
            if self._is_stopping:
                raise CheckpointMovedError("the worker ends")
        return copying.take()

    def _is_done(self, order: Rollback) -> bool:
        return any(entry.fingerprint == order.fingerprint for entry in self._parts.ledger.read())

    def _restore(self, loader: Loader, entry: Entry) -> bool:
        """Make a committed generation live; `False` when its bytes are not in the store any more."""
        stored = self._parts.store.find(entry.sha256) or self._fetch_again(entry)
        if stored is None:
            return False
        before_bytes = used_bytes()
        loaded = loader.load(stored, parse_marker(entry.marker.encode()))
        generation = make(self._parts, loaded, stored, entry, before_bytes)
        say_live(self._parts.log, "restored", generation, self._parts.slot.swap(generation), 0.0)
        return True

    def _fetch_again(self, entry: Entry) -> Stored | None:
        """Take bytes that the store has lost from the watched place, where they are still there."""
        for seen in self._parts.place.observe():
            if seen.fingerprint == entry.fingerprint or entry.sha256.encode() in seen.text:
                return self._parts.store.admit(Load(seen, Manifest(sha256=entry.sha256)))
        return None

    def _prune(self) -> None:
        entries = self._parts.ledger.read()
        if entries:
            before_s = datetime.fromisoformat(entries[-1].committed).timestamp() - _CTIME_SLACK_S
            self._parts.store.prune(frozenset(entry.sha256 for entry in entries[-self._parts.keep :]), before_s)


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
