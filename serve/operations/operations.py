"""The operations: status, history, rollback, pin, unpin, retry, store, live verification.

All of it works on the files of the store, so it reaches every worker and also works while the server is down. Values
come back; printing them is `serve.operations.formatting`'s part."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serve import durable_files
from serve.checkpoint import sharded
from serve.checkpoint.formats import SAFETENSORS, detect_format, read_safetensors_interface
from serve.checkpoint.manifest import parse_marker
from serve.errors import CheckpointError, OperationError
from serve.events.event_log import Journal
from serve.rollout.drift import Drift
from serve.rollout.evidence_board import BOARD, EvidenceBoard
from serve.settings.settings import CANARY, SHADOW
from serve.source.local import LocalSource
from serve.source.observation import Observation
from serve.store.checkpoint_store import Store
from serve.store.ledger import Entry, Ledger
from serve.store.operator_requests import OperatorRequests, Pin, Rollback
from serve.store.quarantine import Quarantine, Record
from serve.swap.changed_weights import Checked, ask_workers, changed_tensors
from serve.swap.host_coordinator import FLEET_LOCK, Coordinator, Proposal
from serve.swap.seen_checkpoints import Note, Unserved
from serve.swap.shared_state import Row

if TYPE_CHECKING:
    from serve.operations.timeline import Comparison, Past

_LOOK_S = 0.05
_MOST_EVENTS = 1000


@dataclass(frozen=True)
class OnProbation:
    """The generation that is on probation."""

    generation: int
    way_back: int  # the generation that all workers go back to where this one does not hold
    kept_bytes: int  # the size of the checkpoint that stays loaded for it
    seconds: float
    answers: int
    bad: Mapping[str, int]  # by signal, the answers that only this generation spoils


@dataclass(frozen=True)
class Status:
    """What a host serves, and what hinders it."""

    committed: Entry | None
    workers: tuple[Row, ...]
    proposal: Proposal | None
    pin: Pin | None
    quarantine: tuple[Record, ...]  # what was refused, the newest last
    unserved: tuple[Note, ...] = ()  # what is published and not served, though nothing is wrong, the newest last
    changed_tensors: tuple[str, ...] = ()  # of the committed generation, which were changed in some worker
    probation: OnProbation | None = None
    drift: Drift | None = None  # of the committed generation, where its server sketches
    is_short: bool = False  # whether the committed generation is not on probation because memory was short


@dataclass(frozen=True)
class Occupant:
    """One file of the store that takes room."""

    name: str  # its sha256, or that of an unfinished copy
    size_bytes: int
    why: str


class Operations:
    """The operations on one store."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            hint = "start the server once, or name its store with --store or SERVE_STORE"
            raise OperationError(f"{root}: expected the store of a server, found nothing", hint)
        self.store = Store(root)
        self.ledger = Ledger(self.store)
        self._operator_requests = OperatorRequests(root)
        self._quarantine, self._unserved = Quarantine(root), Unserved(root)
        self._journal = Journal(root)
        self._board: EvidenceBoard | None = None
        self.coordinator = Coordinator(root, self.ledger, 0.0)
        self._changed = changed_tensors(root)

    def status(self) -> Status:
        """Look at what is served."""
        rows, committed = self.coordinator.membership.survey().alive.values(), self.ledger.last()
        number = committed.generation if committed is not None else 0
        changed = [one.tensor for one in self._changed.read().values() if one.generation == number]
        return Status(
            committed=committed, workers=tuple(sorted(rows, key=lambda row: row.pid)),
            proposal=self.coordinator.open_proposal(), pin=self._operator_requests.pin(),
            quarantine=tuple(self._quarantine.records()), unserved=tuple(self._unserved.notes()),
            changed_tensors=tuple(sorted(changed)), probation=self._probation(), drift=self._drift(),
            is_short=committed is not None and self.coordinator.shared_state.untried == number,
        )  # fmt: skip

    def history(self, most: int | None = None) -> list[Past]:
        """Return generations, the newest first."""
        from serve.operations import timeline  # status needs none of it

        root, entries = self.store.root, self.ledger.read()
        events = self._journal.read(_MOST_EVENTS, timeline.NAMES)[::-1]
        beside = {label: Journal(root.with_name(f"{root.name}@{label}")) for label in (CANARY, SHADOW)}
        trials = {label: journal.read(_MOST_EVENTS, ["promoted"]) for label, journal in beside.items()}
        about: dict[int, list[timeline.Event]] = {}
        for event in events:
            for number in {event.get("generation", 0), timeline.previous_of(event)}:
                about.setdefault(number, []).append(event)
        found = [
            timeline.describe(one, self.store.has(one.sha256), about.get(one.generation, ()), trials)
            for one in entries[::-1][:most]
        ]
        board = self._open_board()
        if found and board is not None:
            found[0] = replace(found[0], **board.sum_up(found[0].entry.generation))
        return found

    def compare(self, older: int | None, newer: int | None) -> Comparison:
        """Compare two generations, the last two by default; raises `OperationError` where there is no such one."""
        from serve.operations import timeline

        known = {past.entry.generation: past for past in self.history()}
        wanted = [*sorted(known)[-2:-1], *sorted(known)[-1:]]
        wanted = [given or last for given, last in zip((older, newer), wanted)]
        missing = [str(one) for one in wanted if one not in known]
        if missing or len(wanted) < 2:
            hint = f"known are: {', '.join(map(str, sorted(known))) or 'none'}"
            raise OperationError(f"expected two generations, found no {' and no '.join(missing) or 'two'}", hint=hint)
        return timeline.compare(known[wanted[0]], known[wanted[1]], self.store)

    def _probation(self) -> OnProbation | None:
        shared_state = self.coordinator.shared_state
        number, way_back = shared_state.on_trial, shared_state.kept
        kept, board = self.ledger.find(way_back), self._open_board()
        if not number or number != shared_state.committed or kept is None or board is None:
            return None
        evidence = board.read(number, way_back, shared_state.trial_since_ms / 1000)
        bad = {signal: count.bad for signal, count in evidence.counts.items()}
        seconds = round(max(0.0, time.monotonic() - evidence.started_s), 1)
        return OnProbation(number, way_back, kept.size_bytes, seconds, evidence.answers, bad)

    def _drift(self) -> Drift | None:
        last, board = self.ledger.read()[-2:], self._open_board()
        if not last or board is None:
            return None
        found = board.read_drift(last[-1].generation, last[0].generation if len(last) > 1 else 0)
        return found if found.spreads else None

    def _open_board(self) -> EvidenceBoard | None:
        if self._board is None and (self.store.root / BOARD).exists():
            self._board = EvidenceBoard(self.store.root)
        return self._board

    def rollback(self, version: str | None) -> Rollback:
        """Order an older version as a new generation, at once where no worker is alive; raises `OperationError`."""
        target = self._choose(version)
        if (self.store.root / FLEET_LOCK).exists() and not self.coordinator.membership.survey().alive:
            hint = "start the server, or roll back on another host of the fleet"
            raise OperationError("this host is of a fleet, and its server is down", hint=hint)
        order = self._operator_requests.order_rollback(target)
        self.coordinator.commit_alone(order.propose(target))
        self.coordinator.wake()
        return order

    def wait_for(self, order: Rollback, timeout_s: float) -> Entry:
        """Return the generation of a rollback once it is live; raises `OperationError` where it does not become so."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            for entry in reversed(self.ledger.read()):
                if entry.fingerprint == order.fingerprint:
                    return entry
            for record in self._quarantine.records():
                if order.fingerprint in record.fingerprints:
                    self._operator_requests.withdraw(order)
                    said = f"the rollback to {order.version} was refused: {record.reason}"
                    raise OperationError(said, hint="other versions: python -m serve history")
            time.sleep(_LOOK_S)
        self._operator_requests.withdraw(order)
        said = f"the rollback to {order.version}: expected it live in {timeout_s:g} s, found it still open"
        raise OperationError(said, hint="see what the workers do: python -m serve status")

    def pin(self, reason: str) -> Pin:
        """Stop automatic moves; raises `OperationError` where nothing is committed yet."""
        return self._operator_requests.order_pin(self._require_committed(), reason)

    def unpin(self) -> bool:
        """Allow automatic moves again, and return whether they were stopped."""
        was_pinned = self._operator_requests.unpin()
        self.coordinator.wake()
        return was_pinned

    def retry(self, wanted: str | None) -> list[Record]:
        """Have what was refused judged anew: all, or by name, version or start of the sha256 (`OperationError`)."""
        lifted = self._quarantine.release(wanted)
        if wanted is not None and not lifted:
            known = ", ".join(sorted(record.name for record in self._quarantine.records())) or "none"
            said = f"expected a checkpoint that was refused, found {wanted}"
            raise OperationError(said, hint=f"refused checkpoints: {known}")
        self.coordinator.wake()
        return lifted

    def occupants(self) -> list[Occupant]:
        """Return what occupies the store, and why, the largest first."""
        entries, proposal, reasons = self.ledger.read(), self.coordinator.open_proposal(), {}
        for record in self._quarantine.records():
            again = "to be tried again" if record.retry_at_s is not None else "not to be tried again"
            reasons[record.subject] = f"{record.name} was refused ({record.code}), {again}"
        for entry in entries:
            kind = "served" if entry is entries[-1] else "kept"
            reasons[entry.sha256] = f"{kind}: generation {entry.generation}, version {entry.version}"
        if proposal is not None:
            reasons[proposal.entry.sha256] = f"{proposal.entry.name} is being prepared"
        found = [
            Occupant(name, size_bytes, reasons.get(name, "being copied" if name.endswith(".part") else "a candidate"))
            for name, size_bytes in self.store.entries().items()
        ]
        return sorted(found, key=lambda occupant: -occupant.size_bytes)

    def verify_live(self, timeout_s: float) -> list[Checked]:
        """Have each worker compare the weights in its memory with their checkpoint; raises `OperationError`."""

        def living() -> set[int]:
            return {row.pid for row in self.coordinator.membership.survey().alive.values()}

        return ask_workers(self._operator_requests, living, self.coordinator.wake, timeout_s)

    def _require_committed(self) -> Entry:
        last = self.ledger.last()
        if last is None:
            raise OperationError("expected a committed generation, found none", hint="first: python -m serve publish")
        return last

    def _choose(self, version: str | None) -> Entry:
        last = self._require_committed()
        older = [entry for entry in reversed(self.ledger.read()) if not entry.has_same_content(last)]
        fitting = [entry for entry in older if version in (None, entry.version)]
        if not fitting:
            kept = sorted({entry.version for entry in older if self.store.has(entry.sha256)})
            what = "an older version" if version is None else f"version {version} among the older ones"
            hint = "can be rolled back to: " + (", ".join(kept) or "nothing")
            raise OperationError(f"expected {what}, found none; committed is version {last.version}", hint)
        if not self.store.has(fitting[0].sha256):
            said = f"version {fitting[0].version}: its checkpoint is not in the store any more"
            raise OperationError(said, hint="publish it again, and raise keep")
        return fitting[0]


@dataclass(frozen=True)
class Verdict:
    """What `verify_checkpoints` found about one marked checkpoint."""

    path: Path
    sha256: str | None  # of its bytes, where they could be read
    version: str | None
    problem: str | None


def verify_checkpoints(path: Path) -> list[Verdict]:
    """Check the marked checkpoints of a directory, or one, against their markers; raises `OperationError`."""
    if not path.exists():
        said = f"{path}: expected a directory of checkpoints, found nothing"
        raise OperationError(said, hint="see: python -m serve verify --help")
    return [_verify(seen) for seen in LocalSource(path).observe()]


def _verify(seen: Observation) -> Verdict:
    sha256, version = None, None
    try:
        if seen.problem is not None:
            raise CheckpointError("marker", seen.problem)
        manifest = parse_marker(seen.text)
        version = manifest.version
        if seen.checkpoint is None:
            raise CheckpointError("missing", "the checkpoint: expected beside its marker, found nothing")
        is_index = sharded.is_index(seen.path)
        sha256 = sharded.hash_joined(seen.path) if is_index else durable_files.hash_file(seen.path)
        found_bytes = seen.checkpoint.size_bytes
        if manifest.size_bytes not in (None, found_bytes):
            raise CheckpointError("size", f"the size: expected {manifest.size_bytes} bytes, found {found_bytes}")
        if manifest.sha256 not in (None, sha256):
            raise CheckpointError("hash", f"the sha256: expected {manifest.sha256}, found {sha256}")
        if not is_index and detect_format(seen.path) == SAFETENSORS:
            read_safetensors_interface(seen.path)
    except CheckpointError as error:
        return Verdict(seen.path, sha256, version, error.message)
    except OSError as error:
        return Verdict(seen.path, sha256, version, f"it cannot be read: {error.strerror}")
    return Verdict(seen.path, sha256, version, None)
