"""Random schedules of a fleet: no host lets a request in on another generation than the newest, whatever happens."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from fleet_simulator import SimulatedHost, WatchedKeys, World

from serve.fleet import member, state
from serve.fleet.keys import Snapshot, Transaction
from serve.fleet.member import carry_out
from serve.fleet.messages import ALL, FENCE, PIN, PREPARE, PROPOSAL, View, write_proposal
from serve.fleet.state import REFUSE, WAIT, Driver
from serve.store.ledger import Entry

POLICIES = [WAIT, REFUSE]
SECONDS = 15.0


def run(policy, seeds, lateness=0.02, **more):
    worlds = [World(seed, policy, lateness, **more).run(SECONDS) for seed in seeds]
    return sum(bool(world.violations) for world in worlds), sum(world.commits for world in worlds)


@pytest.mark.parametrize("lateness", [0.02, 0.2])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_request_starts_on_an_old_generation(policy, lateness):
    violations, commits = run(policy, range(75), lateness)
    assert violations == 0
    assert commits > 25  # else nothing was shown


@pytest.mark.nightly
@pytest.mark.parametrize("lateness", [0.02, 0.2])
@pytest.mark.parametrize("policy", POLICIES)
def test_ten_thousand_schedules(policy, lateness):
    violations, _ = run(policy, range(1000, 3500), lateness)
    assert violations == 0


class DropsAtOnce(Driver):
    """Takes a host whose beat is gone for gone: its lease may end early, while it still believes in it."""

    def __init__(self, gone_s, timeout_s):
        super().__init__(0.0, timeout_s)


class AsksNobody(Driver):
    """Commits without looking who has joined, or said something, since."""

    def _commit(self, view):
        return replace(super()._commit(view), quiet={})


class TakesAnyFence(Driver):
    """Takes the answer to an earlier fence for one to this."""

    def _end_fence(self, view, now_s):
        beats = [view.beat_of(host) for host in view.roster]
        if beats and all(beat is not None and beat.fenced for beat in beats):
            return self._commit(view), "commit"
        return super()._end_fence(view, now_s)


class ForgetsTheLost(Driver):
    """Asks only those whose beats are there, as a coordinator would that has forgotten its members."""

    def decide(self, view, now_s):
        beats = {host for host in view.roster if view.beat_of(host) is not None}
        return super().decide(replace(view, roster={host: view.roster[host] for host in beats}), now_s)


def believe_late(turn_renew):
    """Count the lease from when the answer came."""

    def renew(self, view, me):
        before = self._gate.lease_until_s
        yield from turn_renew(self, view, me)
        if self._gate.lease_until_s > before:
            self._gate.believe(self._setup.now_s() + self._gate.lease[1])

    return renew


def believe_alone(turn_renew):
    """Count a lease that no beat hangs on."""

    def renew(self, view, me):
        yield from turn_renew(self, view, me)
        (lease, ttl_s), sent_s = self._gate.lease, self._setup.now_s()
        if lease and (yield "keep_alive", (lease,)):
            self._gate.believe(sent_s + ttl_s)

    return renew


def open_at_once(respond):
    """Open without having been taken in."""

    def found(view, local, host, me):
        action = respond(view, local, host, me)
        return action._replace(fence=0) if action.join is not None else action

    return found


def say_first(respond):
    """Say that the gate is shut, and leave it open."""

    def found(view, local, host, me):
        action = respond(view, local, host, me)
        is_fence = view.proposal is not None and view.proposal.phase == FENCE
        return action._replace(fence=None) if action.fence and is_fence else action

    return found


def open_unprepared(respond):
    """Open during a round that was answered, when a worker comes that is not prepared."""

    def found(view, local, host, me):
        action = respond(view, local, host, me)
        is_fence = view.proposal is not None and view.proposal.phase == FENCE
        return action._replace(fence=0) if is_fence and action.fence and not local.prepared else action

    return found


class CountsOn(Driver):
    """Counts the silence of a host from before it had joined anew."""

    _lost: ClassVar = {}

    def decide(self, view, now_s):
        self._lost = {host: self._lost.get(host, now_s) for host in view.roster if view.beat_of(host) is None}
        for host, since_s in self._lost.items():
            if now_s - since_s > self.gone_s:
                return state.leave(view, host), f"dropped {host}"
        return super().decide(view, now_s)


def follow_all(follow):
    """Take what the watch tells for all that there is."""

    def found(snapshot, changes, read):
        for one in changes:
            items = {**snapshot.items, **({one.key: one.item} if one.item is not None else {})}
            if one.item is None:
                items.pop(one.key, None)
            snapshot = Snapshot(one.revision, items)
        return snapshot

    return found


MUTANTS = {
    "trusts the watch": (WAIT, Driver, {"follow": follow_all}),
    "counts on": (REFUSE, CountsOn, {}),
    "drops at once": (REFUSE, DropsAtOnce, {}),
    "commits whoever came": (REFUSE, AsksNobody, {}),
    "takes any fence": (WAIT, TakesAnyFence, {}),
    "forgets who is lost": (WAIT, ForgetsTheLost, {}),
    "lease from its receipt": (REFUSE, Driver, {"renew": believe_late}),
    "lease without a beat": (REFUSE, Driver, {"renew": believe_alone}),
    "opens before it is in": (WAIT, Driver, {"respond": open_at_once}),
    "opens for a worker": (WAIT, Driver, {"respond": open_unprepared}),
    "says before it is shut": (WAIT, Driver, {"respond": say_first}),
}


# Found where workers come and go as well.
MANY = ("opens for a worker", "commits whoever came")


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(monkeypatch, name):
    policy, driver, changes = MUTANTS[name]
    if "renew" in changes:
        monkeypatch.setattr(member.FleetMember, "_renew", changes["renew"](member.FleetMember._renew))
    for name_in_module in {"respond", "follow"} & set(changes):
        monkeypatch.setattr(member, name_in_module, changes[name_in_module](getattr(member, name_in_module)))
    for seed in range(300):
        # Where hosts are only cut off and hang, leases matter most.
        world = World(seed, policy, 0.1, events=3 if "lease" in name else 10 if name in MANY else 8)
        world.make_driver = driver
        if world.run(20.0).violations:
            return
    pytest.fail(f"{name}: no schedule has shown it")


def test_clocks_of_other_rates_break_the_promise():
    """What is stated as the bound is one: beyond it, `refuse` does not hold."""
    assert run(REFUSE, range(60), 0.02, skew=1.0)[0] > 0


class Told:
    """The keys, and a watch that tells nothing of a host, while `is_deaf_to` names it."""

    def __init__(self, keys):
        self.keys, self.changes, self.is_deaf_to = keys, None, ""

    def __getattr__(self, name):
        return getattr(self.keys, name)

    def watch(self, first, last, after):
        self.changes = []
        tell = lambda found: self.changes.extend(  # noqa: E731
            one
            for one in found
            if first <= one.key < last + "~" and not (self.is_deaf_to and self.is_deaf_to in one.key)
        )
        self.keys.watches.append(tell)

    def take(self):
        found, self.changes = self.changes, None if self.changes is None else []
        return found


def test_nobody_is_passed_over_whose_coming_the_watch_has_lost():
    keys = WatchedKeys(now_s=lambda: 0.0)
    world, hosts = World(0, WAIT), {}
    world.random.random = lambda: 0.5  # nothing fails
    for name in "ab":
        host = SimulatedHost(world, name, 1.0)
        host.gate.incarnation, host.told = ord(name), Told(keys)
        host.take_over()
        hosts[name] = host

    def turn(*names):
        for name in names:
            carry_out(hosts[name].member.turn(), hosts[name].told)

    turn(*"aaaabbbb")
    entry = Entry(1, "x", 1, "1", "x", 0, "x")
    keys.commit(Transaction({PROPOSAL: 0}, puts={PROPOSAL: write_proposal(entry, PREPARE)}))
    turn(*"ab")
    world.now_s = 5.0  # they have prepared it
    turn(*"ababa")  # the next one commits
    assert View.parse(keys.read(*ALL)).proposal.phase == FENCE
    hosts["a"].told.is_deaf_to = "/b"
    hosts["b"].start()
    hosts["b"].workers.loaded_at_s = 0.0
    turn(*"bbb")
    assert hosts["b"].gate.fence == 0
    keys.commit(Transaction(puts={PIN: "later than all that was lost"}))
    turn(*"aa")
    assert View.parse(keys.read(*ALL)).committed is None
    hosts["a"].told.is_deaf_to = ""
    for _ in range(5):
        world.now_s += 1.0
        turn(*"abab")
    assert View.parse(keys.read(*ALL)).committed == entry
    assert [host.workers.generation for host in hosts.values()] == [1, 1]
