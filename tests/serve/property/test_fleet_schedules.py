"""Random schedules of a fleet: no host lets a request in on another generation than the newest, whatever happens."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from fleet_simulator import World

from serve.fleet import member, state
from serve.fleet.messages import FENCE
from serve.fleet.state import REFUSE, WAIT, Driver

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


MUTANTS = {
    "counts on": (REFUSE, CountsOn, {}),
    "drops at once": (REFUSE, DropsAtOnce, {}),
    "commits whoever came": (WAIT, AsksNobody, {}),
    "takes any fence": (WAIT, TakesAnyFence, {}),
    "forgets who is lost": (WAIT, ForgetsTheLost, {}),
    "lease from its receipt": (REFUSE, Driver, {"renew": believe_late}),
    "lease without a beat": (REFUSE, Driver, {"renew": believe_alone}),
    "opens before it is in": (WAIT, Driver, {"respond": open_at_once}),
    "opens for a worker": (WAIT, Driver, {"respond": open_unprepared}),
    "says before it is shut": (WAIT, Driver, {"respond": say_first}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(monkeypatch, name):
    policy, driver, changes = MUTANTS[name]
    if "renew" in changes:
        monkeypatch.setattr(member.FleetMember, "_renew", changes["renew"](member.FleetMember._renew))
    if "respond" in changes:
        monkeypatch.setattr(member, "respond", changes["respond"](state.respond))
    for seed in range(300):
        # Where hosts are only cut off and hang, leases matter most.
        world = World(seed, policy, 0.1, events=3 if "lease" in name else 10 if "worker" in name else 8)
        world.make_driver = driver
        if world.run(20.0).violations:
            return
    pytest.fail(f"{name}: no schedule has shown it")


def test_clocks_of_other_rates_break_the_promise():
    """What is stated as the bound is one: beyond it, `refuse` does not hold."""
    assert run(REFUSE, range(60), 0.02, skew=1.0)[0] > 0
