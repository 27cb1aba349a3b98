"""The decisions of a fleet: pure functions of what was read, of what a host is, and of time.

A swap goes through three steps: every host of the roster has **prepared**; every one is **fenced**, so that nowhere a
request starts; then one transaction **commits**, if nobody has joined or said anything since. A host opens its gate
again when it reads that its round is over. So no request starts on the old generation once one can on the new one.

Who is cut off is the one question with two answers (`fleet_cut_off`). `wait`: it serves on, and the swap waits for it.
`refuse`: it answers only while its lease runs, by its own clock and counted from before it was renewed; the others wait
that long, by theirs, and go on without it. Rates of clocks may differ by a hundredth, what they show does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from serve.fleet import messages
from serve.fleet.keys import Transaction
from serve.fleet.messages import COMMITTED, FENCE, HOSTS, PROPOSAL, ROSTER, SHUT, Beat, Failure, Member, View, write

WAIT, REFUSE = "wait", "refuse"
COMMIT = "commit"
# By how much a host believes its lease to be shorter, and the others take it to be longer, than it was granted.
SHORTER, LONGER = 0.99, 1.01
# How long all may be held for one that does not answer: at least so long, and for each host; later each time.
_FENCE_S, _FENCE_EACH_S = 0.25, 0.004
_LONGEST_PAUSE_S = 5.0


class Local(NamedTuple):
    """What a host is, read by itself."""

    generation: int  # that its requests start on
    live: int  # the same, if every worker can answer with it; -1 otherwise
    fence: int  # its gate: 0 open, `SHUT`, or a round
    prepared: bool = False  # whether all its workers stand by with the open proposal
    stands_by: bool = False  # the same, with what is committed
    failed: Failure | None = None
    refusal: str = ""  # why it may not join, as the ledger shows


class HostAction(NamedTuple):
    """What a host does, in this order: set its gate, take over what is committed and open, join or say with a beat."""

    fence: int | None = None
    follow: bool = False
    is_open_after: bool = False
    join: Beat | None = None
    say: Beat | None = None
    reason: str = ""


def respond(view: View, local: Local, host: str, me: Member) -> HostAction:
    """Decide what a host does."""
    beat, proposal = view.beat_of(host), view.proposal
    if not view.has(host, me) or beat is None:
        return _come_in(view, local, host, me)
    if local.generation < view.generation:
        # It was prepared and fenced, or the others had not moved. Without its standby it loads, and stays shut.
        return HostAction(SHUT if not local.fence else None, follow=True, is_open_after=local.stands_by)
    number = proposal.number if proposal is not None and local.prepared else 0
    said = Beat(me.incarnation, local.live, number, 0, local.failed)
    # Who has said that it is shut stays so until the round is over, also where a worker has come that is not prepared.
    if proposal is not None and proposal.phase == FENCE and (number or local.fence == proposal.round):
        said = replace(said, fenced=proposal.round)
        return HostAction(proposal.round, say=said if said != beat else None)
    can_open = local.fence != 0 and local.live == local.generation == view.generation
    said = replace(said, fenced=beat.fenced)  # of an earlier round, which means nothing any more
    return HostAction(0 if can_open else None, say=said if said != beat else None)


def _come_in(view: View, local: Local, host: str, me: Member) -> HostAction:
    refusal = local.refusal or find_refusal(view, host, me)
    is_behind = local.generation < view.generation
    # It was in, and is not any more: the others may move without it. Not so where the fleet itself was lost.
    is_out = not view.has(host, me) and local.generation <= view.generation
    shut = SHUT if (is_behind or is_out) and local.fence != SHUT else None
    if refusal:
        return HostAction(shut, reason=refusal)
    if is_behind:
        return HostAction(shut, follow=True, reason="what is committed is being loaded")
    if local.live != view.generation or local.generation != view.generation:
        return HostAction(shut, reason="not every worker answers with what is committed yet")
    return HostAction(shut, join=Beat(me.incarnation, local.live))


def find_refusal(view: View, host: str, me: Member) -> str:
    """Return why a host may not be one of the fleet, or a worker one of its host; empty where it may."""
    mine, beat = view.roster.get(host), view.beats.get(host)
    if beat is not None and mine is not None and beat.incarnation == mine.incarnation and mine.place != me.place:
        return f"the name {host} is taken by {mine.place}; give this host another one: fleet_host"
    for name, other in sorted(view.roster.items(), key=lambda item: item[0]):
        for term in sorted({*other.terms, *me.terms}):
            expected, found = other.terms.get(term), me.terms.get(term)
            if expected != found:
                return f"{term}: expected {expected} as on host {name}, found {found}"
    return ""


def join(view: View, host: str, me: Member, beat: Beat, lease: int) -> Transaction:
    """Return the transaction by which a host becomes one who must be prepared."""
    unchanged = {key: view.changed(key) for key in (COMMITTED, ROSTER + host)}
    return Transaction(unchanged, {}, {ROSTER + host: write(me)}, {HOSTS + host: write(beat)}, lease)


def say(view: View, host: str, beat: Beat, lease: int) -> Transaction:
    """Return the transaction by which a host tells what it is; a late one overwrites no newer one."""
    key = HOSTS + host
    return Transaction({key: view.changed(key)}, leased={key: write(beat)}, lease=lease)


def leave(view: View, host: str) -> Transaction:
    """Return the transaction by which a host goes, or is taken for gone; not where it has spoken since."""
    unchanged = {key: view.changed(key) for key in (ROSTER + host, HOSTS + host)}
    return Transaction(unchanged, deletes=tuple(unchanged))


@dataclass
class Driver:
    """Decides what becomes of the open proposal. What it has seen since when is its own, and by its own clock."""

    gone_s: float  # seconds after which a silent host is taken for gone; infinite for never
    timeout_s: float
    _since: dict[tuple[str, int], float] = field(default_factory=dict)
    _attempts: int = 0
    _fence_at_s: float = 0.0

    def decide(self, view: View, now_s: float) -> tuple[Transaction, str] | None:
        """Return the next transaction, with the event that it is; `None` while there is nothing to do."""
        # Who has joined anew since it was missed had a lease again, seen or not.
        missing = {host: (HOSTS + host, view.changed(ROSTER + host)) for host in view.roster if not view.beat_of(host)}
        proposal, marks = view.proposal, set(missing.values())
        if proposal is not None:
            marks |= {(PROPOSAL, proposal.number), (FENCE, proposal.round)}
        self._since = {mark: self._since.get(mark, now_s) for mark in marks}
        for host, mark in missing.items():
            if now_s - self._since[mark] > self.gone_s:
                return leave(view, host), f"dropped {host}"
        if proposal is None:
            self._attempts, self._fence_at_s = 0, 0.0
            return None
        beats = {host: view.beat_of(host) for host in sorted(view.roster)}
        for host, beat in beats.items():
            if beat is not None and beat.failed is not None and beat.failed.number == proposal.number:
                return _close(proposal, replace(beat.failed, reason=f"host {host}: {beat.failed.reason}")), "closed"
        if proposal.phase == FENCE:
            return self._end_fence(view, now_s)
        late = [host for host, beat in beats.items() if beat is None or beat.prepared != proposal.number]
        if beats and not late and now_s >= self._fence_at_s:
            return _put(proposal, FENCE), "fence"
        if now_s - self._since[(PROPOSAL, proposal.number)] > self.timeout_s:
            who = ", ".join(late) or "none, but a host was late to every fence"
            reason = f"expected every host prepared in {self.timeout_s:g} s; not prepared: {who}"
            return _close(proposal, Failure(proposal.number, reason, False)), "closed"
        return None

    def _end_fence(self, view: View, now_s: float) -> tuple[Transaction, str] | None:
        proposal = view.proposal
        assert proposal is not None
        beats = [view.beat_of(host) for host in view.roster]
        if beats and all(beat is not None and beat.fenced == proposal.round for beat in beats):
            return self._commit(view), COMMIT
        if now_s - self._since[(FENCE, proposal.round)] > max(_FENCE_S, _FENCE_EACH_S * len(beats)):
            self._attempts += 1
            self._fence_at_s = now_s + min(_FENCE_S * 2**self._attempts, _LONGEST_PAUSE_S)
            return _put(proposal, messages.PREPARE), "unfence"
        return None

    def _commit(self, view: View) -> Transaction:
        """Return the commit; it fails where anybody has joined, or said anything, since the view."""
        assert view.proposal is not None
        entry = view.proposal.entry
        return Transaction(
            {key: view.changed(key) for key in (PROPOSAL, COMMITTED)},
            {HOSTS: view.revision, ROSTER: view.revision},
            {COMMITTED: write(entry), messages.name_entry(entry.generation): write(entry)},
            deletes=(PROPOSAL,),
        )


def _put(proposal: messages.Proposed, phase: str) -> Transaction:
    return Transaction({PROPOSAL: proposal.round}, puts={PROPOSAL: messages.write_proposal(proposal.entry, phase)})


def _close(proposal: messages.Proposed, failure: Failure) -> Transaction:
    """Return the end of a proposal that no host follows; its refusal is for a lease, which is to be added."""
    said = {messages.REFUSED + proposal.entry.sha256: write(failure)}
    return Transaction({PROPOSAL: proposal.round}, leased=said, deletes=(PROPOSAL,))
