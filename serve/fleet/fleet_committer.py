"""Committing on all hosts of a fleet at the same instant (`SERVE_COMMIT=fleet`).

Inside a host all is as it is with `host`: a proposal, workers that prepare it, one word that moves them. What differs
is who opens the proposal, and who decides what comes of it: the fleet, by `serve.fleet.member`."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from serve import durable_files
from serve.errors import FleetError
from serve.fleet.carriers import connect
from serve.fleet.gate import Gate
from serve.fleet.keys import Transaction
from serve.fleet.member import RETRY_S, FleetMember, Setup, carry_out
from serve.fleet.messages import ALL, NOW, PIN, PROPOSAL, ROSTER, Failure, Member, View, is_same, propose
from serve.fleet.state import LONGER, REFUSE, Driver, Local, find_refusal
from serve.fleet.status import describe
from serve.rollout.decision import CRASH
from serve.source.observation import SERVED, Ignore, Wait
from serve.store.ledger import CHECKPOINT, RETURN
from serve.store.quarantine import Rejection
from serve.swap.generation import kept
from serve.swap.host_committer import HostCommitter, reject_return
from serve.swap.host_coordinator import Coordinator, Proposal

if TYPE_CHECKING:
    from serve.checkpoint.manifest import Stored
    from serve.fleet.carriers import Keys
    from serve.model.loader import ModelLoader
    from serve.settings.settings import Settings
    from serve.store.ledger import Entry
    from serve.swap.context import Context

_AGAIN_S, _AWAY_S = 0.1, 2.0
_HINT = "move the store away, and the host takes over the history of the fleet"
# What a worker writes of a rejection follows its close at once.
_REASON_S = 0.5
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FleetCoordinator(Coordinator):
    """The agreement of one host, of which the fleet decides what comes of it; `ask_back` asks it for a return."""

    def __init__(
        self, root: Path, context: Context, timeout_s: float, ask_back: Callable[[Entry, int, str], None]
    ) -> None:
        super().__init__(root, context.ledger, timeout_s, context.probation is not None)
        self._ask_back, self._has_room = ask_back, True

    def try_commit(self, proposal: Proposal, has_room: bool = True) -> bool:
        """Commit nothing: the fleet does, when every host is prepared."""
        self._has_room = has_room
        return False

    def take_back(self, generation: int, reason: str = "") -> None:
        """Ask the fleet for a return from the trial to what is kept: all hosts go back, or none."""
        kept = self._ledger.find(self.shared_state.kept)
        if kept is not None and generation == self.shared_state.on_trial == self.shared_state.committed:
            self._ask_back(replace(kept, cause=RETURN, fingerprint=f"{RETURN}:{generation}"), generation, reason)

    def can_return(self, entry: Entry | None) -> bool:
        """Whether an entry is a return to what the workers have kept: they stand by with it."""
        shared_state = self.shared_state
        if entry is None or entry.fingerprint != f"{RETURN}:{shared_state.on_trial}":
            return False
        kept = self._ledger.find(shared_state.kept)
        return shared_state.on_trial == shared_state.committed and kept is not None and kept.has_same_content(entry)

    def is_prepared(self, proposal: Proposal) -> bool:
        """Whether every living worker stands by with a proposal."""
        return self.membership.is_joined and self._may_commit(proposal)

    def follow(self, entries: Sequence[Entry]) -> None:
        """Take over what the fleet has committed, the oldest first; workers that do not stand by load it. Raises
        `FleetError` if this host has another history."""
        with durable_files.hold(self._ledger.lock_path):
            last = self._ledger.last()
            for entry in entries:
                if last is not None and entry.generation == last.generation and not is_same(entry, last):
                    raise FleetError(f"the store has another generation {last.generation} than the fleet", hint=_HINT)
                if last is None or entry.generation > last.generation:
                    self._ledger.append(entry)
            shared_state, proposal, generation = self.shared_state, self.open_proposal(), entries[-1].generation
            is_return = self.can_return(entries[-1])
            if is_return:
                shared_state.returned = generation
            elif proposal is not None and is_same(proposal.entry, entries[-1]):
                self._begin_trial(entries[-1], self._has_room)
                shared_state.done_number = proposal.number
            shared_state.committed = generation
            if shared_state.on_trial != generation:
                shared_state.on_trial = 0
                shared_state.kept = shared_state.kept if is_return else 0
            self._close()

    def shut_if_first(self, gate: Gate) -> None:
        """Shut the gate where no worker is alive: whatever was agreed on with this host's last server is over."""
        with durable_files.hold(self._ledger.lock_path):
            if not self.membership.survey().alive:
                gate.start_over()


class Workers:
    """The workers of a host, by the files of its store."""

    def __init__(self, context: Context, coordinator: FleetCoordinator, gate: Gate) -> None:
        self._context, self._coordinator, self._gate = context, coordinator, gate
        self._closed = (0, 0.0)
        self._refused: Mapping[str, Failure] = {}

    def look(self, view: View) -> Local:
        """Return what they are."""
        shared_state, self._refused = self._coordinator.shared_state, view.refused
        generation, own = shared_state.committed, self._coordinator.open_proposal()
        rows = [row for row in map(shared_state.read_row, range(shared_state.used_rows)) if row.pid]
        if any(row.live != generation for row in rows):  # the kernel is asked for the dead only where it matters
            rows = list(self._coordinator.membership.survey().alive.values())
        is_live = all(row.live == generation for row in rows)
        proposed = view.proposal.entry if view.proposal is not None else None
        prepared, stands_by = map(self._coordinator.can_return, (proposed, view.committed))
        failed: Failure | None = None
        if own is not None and self._coordinator.is_prepared(own):
            prepared = prepared or (proposed is not None and is_same(own.entry, proposed))
            stands_by = stands_by or (view.committed is not None and is_same(own.entry, view.committed))
        is_news = view.proposal is not None and view.generation < view.proposal.entry.generation
        if own is None and is_news and not prepared and view.proposal is not None:
            failed = self._find_failure(view.proposal.entry, view.proposal.number)
        live, doubt = generation if is_live else -1, self._doubt(view)
        return Local(generation, live, self._gate.fence, prepared, stands_by, failed, doubt)

    def prepare(self, entry: Entry, number: int) -> None:
        """Have them prepare a proposal, unless they stand by with what it returns to."""
        if self._gate.attempt == number or self._coordinator.can_return(entry):
            return
        own = self._coordinator.open_proposal()
        if own is not None and not is_same(own.entry, entry):
            self._coordinator.close(own)
        self._coordinator.propose(entry)
        self._gate.attempt = number

    def drop(self) -> None:
        """Have them drop what the fleet has closed."""
        own = self._coordinator.open_proposal()
        if own is not None and own.entry.generation > self._coordinator.shared_state.committed:
            self._coordinator.close(own)

    def follow(self, entries: Sequence[Entry]) -> None:
        """Have them take over what the fleet has committed, and quarantine what it has returned from."""
        self._coordinator.follow(entries)
        last, context = entries[-1], self._context
        bad = context.ledger.find(int(last.fingerprint.partition(":")[2])) if last.cause == RETURN else None
        if bad is None:
            return
        stated = self._refused.get(bad.sha256)
        reason = stated.reason if stated is not None else "by the fleet, while this host was out"
        signal, colon, _ = reason.partition(":")
        facts = {"previous": bad.identity, "signal": signal if colon else CRASH, "reason": reason}
        context.log.emit("returned", **last.identity, **facts)
        context.reject(reject_return(bad, reason), lambda: kept(context))

    def _find_failure(self, entry: Entry, number: int) -> Failure | None:
        if self._gate.attempt != number:
            return None
        record = self._context.quarantine.find_sha256(entry.sha256, entry.marker)
        if self._closed[0] != number:
            self._closed = (number, time.monotonic())
        if record is not None:
            return Failure(number, record.reason, record.retry_at_s is None)
        return Failure(number, "not prepared", False) if time.monotonic() - self._closed[1] > _REASON_S else None

    def _doubt(self, view: View) -> str:
        last = self._context.ledger.last()
        if last is None or last.generation < view.generation:
            return ""  # compared where it follows
        if view.committed is None or last.generation > view.generation or not is_same(last, view.committed):
            found = f"generation {view.generation}" if view.committed is not None else "nothing"
            return f"the store is at generation {last.generation}, the fleet has {found} of the same history"
        return ""


class FleetCommitter(HostCommitter):
    """Makes a candidate live when every worker of every host, of which `read_terms` is the same, has prepared it."""

    def __init__(
        self, context: Context, settings: Settings, gate: Gate, read_terms: Callable[[], Mapping[str, str]]
    ) -> None:
        # A host never ends a proposal before the fleet does.
        super().__init__(context, settings.store, settings.commit_timeout_s * 2)
        self._settings, self._gate, self._read_terms = settings, gate, read_terms
        host = settings.fleet_host or socket.gethostname()
        self._setup = Setup(host, settings.fleet_lease_s, context.log.emit)
        self._keys: Keys | None = None
        self._thread: threading.Thread | None = None
        self._member: FleetMember | None = None
        self._describe: Callable[[], Member] | None = None

    @property
    def reason(self) -> str:
        """Why the fleet has not taken this host in; empty where it has, and in workers that do not speak to it."""
        return self._member.reason if self._member is not None else ""

    def find_refusal(self) -> str:
        """Return why this worker is not like those of the fleet, its own host's among them; raises `FleetError`."""
        if self._describe is None:
            return "the worker has not booted"
        return find_refusal(View.parse(self._shared_keys().read(*ALL)), self._setup.host, self._describe())

    def describe(self) -> Mapping[str, Any]:
        """Return what every host is; `error` alone where the keys are out of reach."""
        try:
            return describe(self._shared_keys())
        except FleetError as error:
            return {"error": error.message}

    def boot(self, loader: ModelLoader) -> None:
        """Make the committed generation live; the gate stays shut until the fleet has taken this host in."""
        self._fleet_coordinator.shut_if_first(self._gate)
        super().boot(loader)
        if self._thread is None and not self._is_stopping:
            self._join_fleet()

    def leave(self) -> None:
        """Take part no more; the last worker of the host leaves the fleet."""
        super().leave()
        if self._member is not None and self._thread is not None:
            self._member.stop()
            self._thread.join(_AWAY_S)  # a turn that is under way could open the gate once more
        if self._member is None or self._fleet_coordinator.membership.survey().alive:
            return
        try:
            carry_out(self._member.leave(), self._shared_keys())
        except FleetError as error:  # the others wait for it as for one that was killed
            self._context.log.emit("fleet", state="away", reason=error.message)

    def move(self, loader: ModelLoader, stored: Stored, proposed: Entry) -> Ignore | Wait:
        """Propose an admitted checkpoint to the fleet; attending to what is proposed makes it live."""
        keys = self._shared_keys()
        view = View.parse(keys.read(NOW, ROSTER + self._setup.host))
        if view.committed is not None and view.committed.has_same_content(proposed):
            is_live = self._context.slot.live is not None and self._coordinator.shared_state.committed
            is_there = is_live == view.generation
            return SERVED if is_there else Wait("it is committed, and this host is about to move", _AGAIN_S)
        is_automatic = proposed.cause == CHECKPOINT
        refused = view.refused.get(proposed.sha256) if is_automatic else None
        if refused is not None and refused.is_lasting:
            name, by = proposed.name, proposed.fingerprint
            rejection = Rejection(name, "fleet", refused.reason, by, proposed.sha256, proposed.version)
            return self._context.reject(rejection, self.kept)
        if refused is not None:
            return Wait(f"no host moved: {refused.reason}", _AWAY_S)
        if view.text(PIN) and is_automatic:
            return Wait(f"the fleet is pinned: {view.text(PIN)}", _AWAY_S)
        if not view.has(self._setup.host, Member(self._gate.incarnation)) or view.proposal is not None:
            return Wait("the fleet is about to move, or has not taken this host in", _AGAIN_S)
        keys.commit(propose(view, proposed))
        return Wait("it is proposed to the fleet", _AGAIN_S)

    def _make_coordinator(self) -> Coordinator:
        return FleetCoordinator(self._root, self._context, self._timeout_s, self._ask_back)

    def _ask_back(self, entry: Entry, generation: int, reason: str) -> None:
        """Propose a return, with the reason for the other hosts; what is open is closed, to be proposed again."""
        try:
            keys = self._shared_keys()
            view = View.parse(keys.read(NOW))
            if view.generation != generation or (view.proposal is not None and view.proposal.entry.cause == RETURN):
                return
            if view.text(PIN):
                self._coordinator.end_trial(generation)
            elif view.proposal is not None:
                keys.commit(Transaction({PROPOSAL: view.changed(PROPOSAL)}, deletes=(PROPOSAL,)))
            else:
                bad = Failure(generation, f"{reason} (host {self._setup.host})", True)
                keys.commit(propose(view, entry, bad, keys.grant(RETRY_S)[0]))
        except FleetError as error:  # nobody moves; the next look tries again
            self._context.log.emit("fleet", state="away", reason=error.message)

    @property
    def _fleet_coordinator(self) -> FleetCoordinator:
        coordinator = self._coordinator
        assert isinstance(coordinator, FleetCoordinator)
        return coordinator

    def _join_fleet(self) -> None:
        settings, coordinator, terms = self._settings, self._fleet_coordinator, self._read_terms()
        place = f"{socket.gethostname()} {_BOOT_ID.read_text().strip()} {settings.store.resolve()}"
        lasts_s = settings.fleet_lease_s if settings.fleet_cut_off == REFUSE else settings.fleet_evict_s
        driver = Driver(lasts_s * LONGER or math.inf, settings.commit_timeout_s)
        workers = Workers(self._context, coordinator, self._gate)
        self._describe = lambda: Member(self._gate.incarnation, place, terms)
        self._member = FleetMember(self._setup, self._gate, workers, driver, self._describe)
        is_wanted: Callable[[], bool] = lambda: coordinator.membership.is_joined  # noqa: E731
        arguments = (self._root, lambda: connect(settings), is_wanted)
        self._thread = threading.Thread(target=self._member.run, args=arguments, name="fleet", daemon=True)
        self._thread.start()

    def _shared_keys(self) -> Keys:
        self._keys = self._keys or connect(self._settings)
        return self._keys
