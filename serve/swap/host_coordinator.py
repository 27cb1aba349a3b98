"""Agreement of the workers of one host on the next generation.

One proposal is open at a time. Every worker prepares it; when each living one has, the first to see it writes the
ledger and then the commit word, and with that one store all of them move. One rejection, or the deadline, closes the
proposal, and no worker moves. All of it happens under one lock that the kernel releases when its holder dies:

    <store>/word                    the commit word and a row for each worker (serve.swap.shared_state)
    <store>/workers/<row>           locked by the worker of that row (serve.swap.shared_state)
    <store>/proposal.json           the open proposal, or the last one
    <store>/generations.jsonl       what was committed (serve.store.ledger)

Killed between ledger and word, the proposal is still open and every living worker is prepared: the next one to look
finishes the commit. Killed all together, the first worker to come back takes the word from the ledger.

A commit begins a trial, where trials are wanted: the generation before stays, and a return to it is one more entry of
the ledger and one more store to the word. Only what has held is returned to: a second commit during a trial keeps the
way back that there was. A server that starts anew begins the trial again.
"""

from __future__ import annotations

import enum
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from serve import durable_files
from serve.store.ledger import CHECKPOINT, PROMOTION, RETURN, Entry, Ledger, number
from serve.swap.shared_state import Membership, Row, SharedState

FLEET_LOCK = "fleet.lock"  # in the store of a host that takes part in a fleet
_SURVEY_PAUSE_S = 0.05  # how often the kernel is asked who has died, while somebody is not prepared
_WORKER_FAILURES_ALLOWED = 1  # the second that dies while it prepares the same bytes dies of them


@dataclass(frozen=True)
class Proposal:
    """What all workers are to prepare, until `deadline_s` on the monotonic clock, which a host's processes share."""

    number: int
    entry: Entry
    deadline_s: float


class ProposalState(enum.Enum):
    """The state of a proposal, seen by one worker."""

    WAITING = "some worker is still preparing"
    COMMITTED = "it is live"
    CLOSED = "no worker moves"


class Coordinator:
    """The agreement of one host, seen by one of its workers or by a command."""

    def __init__(self, root: Path, ledger: Ledger, timeout_s: float, has_trials: bool = False) -> None:
        self._ledger, self._timeout_s, self._has_trials = ledger, timeout_s, has_trials
        self._path = root / "proposal.json"
        with durable_files.hold(ledger.lock_path):
            self.shared_state = SharedState(root / "word").open()
        self.membership = Membership(root / "workers", self.shared_state)
        self._survey_at_s = 0.0

    def open_proposal(self) -> Proposal | None:
        """Return the proposal that is open, if one is."""
        open_number = self.shared_state.open_number
        if not open_number:
            return None
        try:
            stated = json.loads(self._path.read_bytes())
            proposal = Proposal(**{**stated, "entry": Entry(**stated["entry"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return proposal if proposal.number == open_number else None

    def join(self, live: int) -> bool:
        """Become one of those who must be prepared, unless something newer than `live` must be loaded first."""
        with durable_files.hold(self._ledger.lock_path):
            if not self.membership.survey().alive:
                self._start_over()
            if live and live != self.shared_state.committed:
                return False
            self.membership.join(live)
            self.shared_state.next_turn()
            return True

    def reap(self) -> tuple[Entry, int] | None:
        """Look for workers that died while they prepared; return what they prepared and how many, if that closed it."""
        with durable_files.hold(self._ledger.lock_path):
            survey = self.membership.survey()
            proposal = self.open_proposal()
            died = [row for row in survey.dead.values() if proposal and row.preparing == proposal.number]
            if self.shared_state.on_trial:
                # Who ended with the server, or is an older server's, did not die of the model.
                lost = [row for row in survey.dead.values() if row.parent == os.getppid() and row not in died]
                self.shared_state.crashes += len(lost)
            for index in survey.dead:
                self.shared_state.write_row(index, Row())
            if proposal is None or not died:
                return None
            self.shared_state.worker_failures += len(died)
            if self.shared_state.worker_failures <= _WORKER_FAILURES_ALLOWED and survey.alive:
                return None
            self._close()
            return proposal.entry, self.shared_state.worker_failures

    def propose(self, proposed: Entry) -> Proposal | None:
        """Open a proposal, or return the one that is open; `None` when this content is committed already."""
        with durable_files.hold(self._ledger.lock_path):
            earlier = self.open_proposal()
            if earlier is not None:
                return earlier
            entries = self._ledger.read()
            if entries and entries[-1].has_same_content(proposed):
                return None
            entry = number(proposed, entries)
            proposal = Proposal(self.shared_state.last_number + 1, entry, time.monotonic() + self._timeout_s)
            # Not lasting: after a power cut no worker is left that has prepared it.
            durable_files.replace_file(self._path, json.dumps(asdict(proposal)).encode() + b"\n", is_lasting=False)
            self.shared_state.worker_failures = 0
            self.shared_state.last_number = self.shared_state.open_number = proposal.number
            self.shared_state.next_turn()
            return proposal

    def close(self, proposal: Proposal) -> bool:
        """Close a proposal, so that no worker moves; return whether this call did, and none before."""
        with durable_files.hold(self._ledger.lock_path):
            if self.shared_state.open_number != proposal.number:
                return False
            self._close()
            return True

    def try_commit(self, proposal: Proposal, has_room: bool = True) -> bool:
        """Move all workers if each is prepared, and return whether it did (or `OSError`); `has_room`: for a trial."""
        if not self.membership.is_joined or not self._may_commit(proposal):
            return False  # asked again under the lock; this saves taking it for nothing
        with durable_files.hold(self._ledger.lock_path):
            if self.shared_state.open_number != proposal.number or self.late(proposal):
                return False
            last = self._ledger.last()
            if last is None or last.generation < proposal.entry.generation:
                self._ledger.append(proposal.entry)
            self._begin_trial(proposal.entry, has_room)
            self.shared_state.done_number = proposal.number
            self.shared_state.committed = proposal.entry.generation  # from here on every request starts on it
            self._close()
            return True

    def take_back(self, generation: int, reason: str = "") -> Entry | None:
        """Return from the trial to what is kept; `None` when it has ended. Raises `OSError`, none moved."""
        shared_state = self.shared_state
        with durable_files.hold(self._ledger.lock_path):
            if not generation == shared_state.on_trial == shared_state.committed:
                return None
            entries = self._ledger.read()
            entry = entries[-1]
            if entry.generation == generation:  # else whoever wrote it died before the word
                kept = next(earlier for earlier in entries if earlier.generation == shared_state.kept)
                back = replace(kept, cause=RETURN, fingerprint=f"{RETURN}:{generation}", committed="")
                entry = self._ledger.append(number(back, entries))
            # In this order: whoever dies in between leaves a trial that the next one to look finishes.
            shared_state.returned = entry.generation
            shared_state.committed = entry.generation
            shared_state.on_trial = 0
            self._close()
            return entry

    def end_trial(self, generation: int) -> bool:
        """End a trial for the good, and return whether this call did."""
        with durable_files.hold(self._ledger.lock_path):
            if not generation or self.shared_state.on_trial != generation:
                return False
            self.shared_state.on_trial = self.shared_state.kept = 0
            self.shared_state.next_turn()
            return True

    def _begin_trial(self, entry: Entry, has_room: bool) -> None:
        shared_state, before = self.shared_state, self.shared_state.committed
        shared_state.untried = 0 if has_room else entry.generation
        is_wanted = self._has_trials and has_room and entry.cause in (CHECKPOINT, PROMOTION) and before > 0
        if not (is_wanted and shared_state.on_trial == before):
            shared_state.kept = before if is_wanted else 0
        shared_state.crashes, shared_state.trial_since_ms = 0, int(time.monotonic() * 1000)
        shared_state.on_trial = entry.generation if is_wanted else 0

    def state_of(self, proposal: Proposal) -> ProposalState:
        """Return the state of a proposal."""
        # In this order, because a commit writes its number and the word first, and closes then.
        shared_state, is_open = self.shared_state, self.shared_state.open_number == proposal.number
        if shared_state.done_number == proposal.number and shared_state.committed >= proposal.entry.generation:
            return ProposalState.COMMITTED
        return ProposalState.WAITING if is_open else ProposalState.CLOSED

    def commit_alone(self, proposed: Entry) -> Entry | None:
        """Commit while no worker is alive; `None` when there are some, who must prepare it. Raises `OSError`."""
        with durable_files.hold(self._ledger.lock_path):
            if self.membership.survey().alive:
                return None
            self._start_over()
            entry = self._ledger.append(number(proposed, self._ledger.read()))
            self.shared_state.committed = entry.generation
            return entry

    def wake(self) -> None:
        """Have the workers look now."""
        with durable_files.hold(self._ledger.lock_path):
            self.shared_state.next_turn()

    def late(self, proposal: Proposal) -> list[int]:
        """Return the process ids of the living workers that have not prepared a proposal."""
        return [row.pid for row in self.membership.survey().alive.values() if row.prepared != proposal.number]

    def _may_commit(self, proposal: Proposal) -> bool:
        if self.membership.all_prepared(proposal.number):
            return True
        now_s = time.monotonic()
        if now_s < self._survey_at_s:
            return False
        self._survey_at_s = now_s + _SURVEY_PAUSE_S
        return not self.late(proposal)

    def _start_over(self) -> None:
        # No worker is left that could finish what was open.
        if self.shared_state.open_number:
            self._close()
        shared_state, last = self.shared_state, self._ledger.last()
        shared_state.committed = last.generation if last else 0
        if shared_state.on_trial != shared_state.committed or not self._has_trials:
            shared_state.on_trial = shared_state.kept = 0
        shared_state.trial_since_ms = int(time.monotonic() * 1000)

    def _close(self) -> None:
        self.shared_state.open_number = 0
        self.shared_state.next_turn()
