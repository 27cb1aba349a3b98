"""Committing in all workers of a host at the same instant (`SERVE_COMMIT=host`)."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from serve.checkpoint.manifest import Stored, parse_marker
from serve.errors import CheckpointError, DeadlineError, MemoryShortError
from serve.rollout.decision import Evidence, Step, Verdict
from serve.rollout.evidence_board import EvidenceBoard, Watch
from serve.source.observation import SERVED, Ignore, Wait
from serve.store.ledger import CHECKPOINT, Entry
from serve.store.quarantine import Rejection, explain, reject_entry
from serve.swap.background_task import BackgroundTask
from serve.swap.generation import find_stored, free, kept, load_entry, log_live, make, prune, restore
from serve.swap.host_coordinator import Coordinator, Proposal, ProposalState
from serve.swap.shared_state import ON_TRIAL, RETURNED
from serve.system.resources import used_bytes

if TYPE_CHECKING:
    from serve.model.loader import Loaded, ModelLoader
    from serve.model.slot import Generation
    from serve.store.operator_requests import Rollback
    from serve.swap.context import Context

_LOOK_S = 0.002  # between two looks at whether the others are prepared: all hold two models meanwhile
_AGAIN_S = 0.1
_CATCH_UP_PAUSE_S = 2.0


class HostCommitter:
    """Makes a candidate live when every worker of the host has prepared it."""

    def __init__(self, context: Context, root: Path, timeout_s: float) -> None:
        self._context, self._is_stopping = context, False
        self._root, self._timeout_s = root, timeout_s
        self._opened: Coordinator | None = None
        self._catch_up_at_s = 0.0
        self._probation: Probation | None = None
        self._watch: Watch | None = None
        self._shortage = ""

    @property
    def turn(self) -> int:
        """A number that changes when there is something to attend to."""
        return self._opened.shared_state.turn if self._opened is not None else 0

    @property
    def is_joined(self) -> bool:
        """Whether no generation is committed without this worker; requests that it took before would find none."""
        return self._opened is not None and self._opened.membership.is_joined

    @property
    def _coordinator(self) -> Coordinator:
        # Not before the fork: the locks of the membership belong to one process.
        if self._opened is None:
            rule = self._context.probation
            self._opened = self._make_coordinator()
            if rule is not None:
                self._probation = Probation(self._context, self._opened, self.kept)
                self._watch = Watch(self._probation, rule, self._context.guard, self._context.log)
        return self._opened

    def _make_coordinator(self) -> Coordinator:
        return Coordinator(self._root, self._context.ledger, self._timeout_s, self._context.probation is not None)

    def boot(self, loader: ModelLoader) -> None:
        """Make the committed generation live, and join the workers that must be prepared."""
        reaped = self._coordinator.reap()
        if self._watch is not None:
            self._watch.look()
        if reaped is not None:
            entry, count = reaped
            rejection = reject_entry(CheckpointError("crash", f"{count} workers died while they prepared it"), entry)
            self._context.reject(replace(rejection, is_lasting=False, is_costly=True), self.kept)
        while not self._is_stopping:
            last = self._context.ledger.last()
            live = last.generation if last is not None and self._try_restore(loader, last) else 0
            self._restore_kept(loader)
            if self._coordinator.join(live):
                self._begin_to_count()
                return
            time.sleep(_AGAIN_S)

    def report(self) -> None:
        """State in the host's table what this worker answers with."""
        self._coordinator.membership.update(live=self._context.slot.number)

    def kept(self) -> frozenset[str]:
        """Return the sha256 of what must stay in the store: what is kept of the generations, and what is proposed."""
        proposal, way_back = self._coordinator.open_proposal(), self._kept_entry()
        needed = (one.sha256 for one in (proposal.entry if proposal else None, way_back) if one is not None)
        return kept(self._context).union(needed)

    def leave(self) -> None:
        """Take part no more; the worker ends."""
        self._is_stopping = True
        if self._watch is not None:
            self._watch.stop()
        if self._opened is not None:
            self._opened.membership.leave()

    def attend(self, loader: ModelLoader) -> bool:
        """Prepare what is proposed, wait until it is committed or closed, and return whether there was any."""
        if not self._coordinator.membership.is_joined:
            self.boot(loader)  # booting failed, for example because the disk was full
        entry = self._context.ledger.last() if self._context.slot.live is None else None
        if entry is not None and time.monotonic() >= self._catch_up_at_s:
            self._catch_up_at_s = time.monotonic() + _CATCH_UP_PAUSE_S
            if self._try_restore(loader, entry):
                self._coordinator.membership.update(live=entry.generation)
        self._follow_trial()
        coordinator = self._coordinator
        proposal = coordinator.open_proposal() if coordinator.shared_state.open_number else None
        if proposal is None:
            return False
        self._carry_out(loader, proposal)
        return True

    def come_back(self, loader: ModelLoader) -> None:
        """Do nothing: attending to the others brings it back."""

    def is_done(self, order: Rollback) -> bool:
        """Say whether any worker of the host carried out a rollback."""
        return any(entry.fingerprint == order.fingerprint for entry in self._context.ledger.read())

    def move(self, loader: ModelLoader, stored: Stored, proposed: Entry) -> Ignore | Wait:
        """Make an admitted checkpoint live in all workers of the host."""
        proposal = self._coordinator.propose(proposed)
        if proposal is None:
            is_live = self._context.slot.live is not None
            return SERVED if is_live else Wait("it is committed, and this worker is about to load it", _AGAIN_S)
        state = self._carry_out(loader, proposal, stored)
        if proposal.entry.fingerprint != proposed.fingerprint:
            return Wait("another checkpoint came first", 0.0)
        if state is ProposalState.COMMITTED:
            return SERVED
        record = self._context.quarantine.find_sha256(proposed.sha256, proposed.marker)
        return Ignore(f"refused: {record.reason}") if record is not None else Wait("no worker moved", _AGAIN_S)

    def _carry_out(self, loader: ModelLoader, proposal: Proposal, admitted: Stored | None = None) -> ProposalState:
        coordinator, entry = self._coordinator, proposal.entry
        before_bytes, previous = used_bytes(), self._context.slot.live
        coordinator.membership.update(preparing=proposal.number)
        stored = admitted if admitted is not None and admitted.sha256 == entry.sha256 else None
        background_task = BackgroundTask(lambda: self._load(loader, entry, stored), str(entry.generation))
        try:
            generation = self._prepare(loader, proposal, background_task, before_bytes)
            prepared_s = time.monotonic()
            while generation is not None and self._is_waiting(proposal):
                try:
                    if not coordinator.try_commit(proposal, not self._shortage):
                        time.sleep(_LOOK_S)
                    elif self._shortage and previous is not None and self._probation is not None:
                        reason = f"not on probation: {self._shortage}"
                        self._context.log.emit("held", generation=entry.generation, reason=reason)
                except OSError as error:
                    self._close(proposal, error)
        finally:
            background_task.abandon()
        state = coordinator.state_of(proposal)
        if generation is not None and state is ProposalState.COMMITTED:
            self._follow_through(generation, previous, time.monotonic() - prepared_s)
        self._context.slot.stand_by(None)
        coordinator.membership.update(preparing=0, prepared=0)
        self.report()
        return state

    def _prepare(
        self, loader: ModelLoader, proposal: Proposal, task: BackgroundTask[tuple[Stored, Loaded]], before_bytes: int
    ) -> Generation | None:
        """Wait for the model, put it where the commit word finds it, and report it."""
        while not task.wait(_LOOK_S * 5):
            if not self._is_waiting(proposal):
                return None
        try:
            stored, loaded = task.take()
        except Exception as error:
            self._close(proposal, error)
            return None
        self._shortage = loader.find_shortage(stored, loaded.format)
        generation = make(self._context, loaded, stored, proposal.entry, before_bytes)
        self._context.slot.stand_by(generation)
        self._coordinator.membership.update(prepared=proposal.number)
        seconds = {"load_s": round(loaded.load_s, 6), "warm_up_s": round(loaded.warm_up_s, 6)}
        self._context.log.emit("prepared", **proposal.entry.identity, **seconds)
        return generation

    def _is_waiting(self, proposal: Proposal) -> bool:
        if self._is_stopping or self._coordinator.state_of(proposal) is not ProposalState.WAITING:
            return False
        if time.monotonic() > proposal.deadline_s:
            late = ", ".join(str(pid) for pid in self._coordinator.late(proposal)) or "none"
            said = f"expected every worker prepared in {self._timeout_s:g} s; not prepared: {late}"
            self._close(proposal, DeadlineError(said))
            return False
        return True

    def _load(self, loader: ModelLoader, entry: Entry, stored: Stored | None) -> tuple[Stored, Loaded]:
        stored = stored or find_stored(self._context, entry)
        if stored is None:
            raise FileNotFoundError(f"{entry.name}: it is neither in the store nor at the watched place")
        manifest, shared_state = parse_marker(entry.marker.encode()), self._coordinator.shared_state
        if entry.cause == CHECKPOINT:  # another host of a fleet may have admitted it, by a policy of its own
            self._context.policy.require(manifest.stated, stored.sha256)
        try:
            return stored, loader.load(stored, manifest)
        except MemoryShortError:
            if self._probation is None or not self._context.slot.let_go():
                raise
        # A third model does not fit: what is published goes before what was kept.
        self._probation.end(shared_state.on_trial, f"the memory is needed for version {entry.version}")
        free(self._context.slot.take_drained(), self._context.log)
        return stored, loader.load(stored, manifest)

    def _begin_to_count(self) -> None:
        guard, shared_state = self._context.guard, self._coordinator.shared_state
        is_counting = self._watch is not None or guard.is_rolled_out
        if not is_counting and not guard.drift_share:
            return
        cells = shared_state.cells  # each request reads them

        def read_trial() -> tuple[int, int]:
            on_trial = cells[ON_TRIAL]
            if guard.is_judged and not on_trial and shared_state.committed != shared_state.ended:
                on_trial = shared_state.committed
            return on_trial, cells[RETURNED]

        board = EvidenceBoard(self._context.store.root)
        guard.open(board, self._coordinator.membership.index, read_trial, is_counting)
        if self._watch is not None:
            guard.wake = self._watch.wake
            self._watch.start(PROBATION)

    def _kept_entry(self) -> Entry | None:
        shared_state = self._coordinator.shared_state
        return self._context.ledger.find(shared_state.kept if shared_state.on_trial else 0)

    def _restore_kept(self, loader: ModelLoader) -> None:
        """Load what all workers would go back to, in a worker that starts during a trial."""
        entry = self._kept_entry()
        if entry is not None and self._context.slot.live is not None:
            try:
                generation = load_entry(self._context, loader, entry)
                if generation is not None:
                    self._context.slot.keep(generation)
            except Exception as error:  # it would have to load it after a return, and answer 503 meanwhile
                self._context.log.emit("not_restored", generation=entry.generation, reason=explain(error))

    def _follow_trial(self) -> None:
        """Let go of what was kept when a trial has ended, and write the line of a return."""
        shared_state, live = self._coordinator.shared_state, self._context.slot.live
        if not shared_state.kept and self._context.slot.let_go():
            free(self._context.slot.take_drained(), self._context.log)
        number, membership = live.provenance.generation if live is not None else 0, self._coordinator.membership
        if live is not None and number == shared_state.returned and membership.live != number:
            log_live(self._context, "swapped", live, None, 0.0)
            membership.update(live=number)

    def _follow_through(self, generation: Generation, previous: Generation | None, commit_s: float) -> None:
        live = self._context.slot.live  # looking makes it live, should no request have done so before
        if live is not generation:
            return
        last = self._context.ledger.last()
        generation.facts["committed"] = last.committed if last else ""
        log_live(self._context, "swapped", generation, previous, commit_s)
        self._context.quarantine.forget(generation.provenance.sha256)
        prune(self._context, self.kept)
        if self._watch is not None:
            self._watch.wake()

    def _close(self, proposal: Proposal, error: BaseException) -> None:
        if self._coordinator.close(proposal):
            self._context.reject(reject_entry(error, proposal.entry), self.kept)

    def _try_restore(self, loader: ModelLoader, entry: Entry) -> bool:
        if self._context.slot.number == entry.generation:
            return True
        try:
            return restore(self._context, loader, entry)
        except Exception as error:  # the newest checkpoint may still be good; only the way back is lost
            self._context.log.emit("not_restored", generation=entry.generation, reason=explain(error))
            return False


PROBATION = "probation"


class Probation:
    """The probations of one model, seen by one worker; a trial of `serve.rollout.evidence_board`. Who sees first that a
    generation must go back writes one word, which moves all workers at the same instant."""

    def __init__(self, context: Context, coordinator: Coordinator, kept: Callable[[], frozenset[str]]) -> None:
        self._context, self._coordinator, self._kept = context, coordinator, kept
        self._board = EvidenceBoard(context.store.root)

    def find(self) -> int:
        """Return the generation that is on probation, or 0."""
        shared_state = self._coordinator.shared_state
        return shared_state.on_trial if shared_state.on_trial == shared_state.committed else 0

    def read(self, number: int) -> Evidence:
        """Return what all workers know of it."""
        shared_state = self._coordinator.shared_state
        evidence = self._board.read(number, shared_state.kept, shared_state.trial_since_ms / 1000)
        return replace(evidence, crashes=shared_state.crashes)

    def carry_out(self, number: int, verdict: Verdict, evidence: Evidence) -> None:
        """Let it stay, or take it back."""
        if self._context.operator_requests.pin() is not None:
            verdict = Verdict(Step.KEEP, "an operator has pinned it")
        if verdict.step is Step.KEEP:
            self.end(number, verdict.reason, evidence)
            return
        returned = self._coordinator.take_back(number, verdict.reason)
        if returned is None:
            return  # another worker was faster, or the fleet was asked
        bad = next(entry for entry in self._context.ledger.read() if entry.generation == number)
        previous = {**bad.identity, **self._board.sum_up(number)}
        facts = {"previous": previous, "signal": verdict.signal, "reason": verdict.reason}
        self._context.log.emit("returned", **returned.identity, **facts, **_as_facts(evidence))
        self._context.reject(reject_return(bad, verdict.reason), self._kept)

    def end(self, number: int, reason: str, evidence: Evidence | None = None) -> None:
        """Let it stay, once on this host."""
        if self._coordinator.end_trial(number):
            counts = {} if evidence is None else _as_facts(evidence)
            self._context.log.emit("held", generation=number, reason=reason, **counts)


def reject_return(bad: Entry, reason: str) -> Rejection:
    """Refuse what was taken back."""
    return reject_entry(CheckpointError(PROBATION, f"taken back from generation {bad.generation}: {reason}"), bad)


def _as_facts(evidence: Evidence) -> dict[str, object]:
    seconds = round(time.monotonic() - evidence.started_s, 3)
    return {"answers": evidence.answers, "bad": evidence.bad, "seconds": seconds}
