"""A fleet in one process and on made-up time: hosts that hang, die and are cut off, late messages."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field

from serve.errors import FleetError
from serve.fleet.keys import Change, LeaseLostError, Transaction
from serve.fleet.member import FleetMember, Setup
from serve.fleet.memory_keys import MemoryKeys
from serve.fleet.messages import ALL, COMMITTED, PREPARE, PROPOSAL, SHUT, Failure, Member, View, is_same, write_proposal
from serve.fleet.state import LONGER, REFUSE, Driver, Local
from serve.store.ledger import Entry

LEASE_S = 2.0


class WatchedKeys(MemoryKeys):
    """Keys that call whoever watches them."""

    def __init__(self, now_s, register=None) -> None:
        super().__init__(now_s, register)
        self.watches: list = []

    def _change(self, changed) -> None:
        super()._change(changed)
        found = [one for one in self._changes if one.revision == self.revision]
        for tell in list(self.watches):
            tell(found)


@dataclass
class SimulatedGate:
    """The cells of a host; they outlive its processes."""

    fence: int = SHUT
    lease_until_s: float = 0.0
    incarnation: int = 0
    attempt: int = 0
    lease: tuple[int, float] = (0, 0.0)

    def believe(self, until_s: float) -> None:
        self.lease_until_s = max(self.lease_until_s, until_s)


@dataclass
class SimulatedWorkers:
    """The workers of a host: they prepare after a while, fail now and then, and load what they have missed."""

    world: World
    gate: SimulatedGate
    generation: int = 0
    ledger: list[Entry] = field(default_factory=list)
    standby: Entry | None = None
    ready_at_s: float = 0.0
    loaded_at_s: float = 0.0
    failure: Failure | None = None

    def look(self, view: View) -> Local:
        now_s, proposal = self.world.now_s, view.proposal
        is_ready = self.standby is not None and now_s >= self.ready_at_s
        prepared = is_ready and proposal is not None and is_same(self.standby, proposal.entry)
        stands_by = is_ready and view.committed is not None and is_same(self.standby, view.committed)
        failed = self.failure if proposal and self.failure and self.failure.number == proposal.number else None
        live = self.generation if now_s >= self.loaded_at_s else -1
        return Local(self.generation, live, self.gate.fence, prepared, stands_by, failed)

    def prepare(self, entry: Entry, number: int) -> None:
        if self.gate.attempt == number:
            return
        self.gate.attempt = number
        if self.world.random.random() < 0.05:
            self.failure = Failure(number, "it does not load here", False)
            return
        self.standby, self.ready_at_s = entry, self.world.now_s + self.world.random.expovariate(5)

    def drop(self) -> None:
        if self.standby is not None and self.standby.generation > self.generation:
            self.standby = None

    def follow(self, entries: list[Entry]) -> None:
        for entry in entries:
            if not self.ledger or entry.generation > self.ledger[-1].generation:
                self.ledger.append(entry)
        if self.standby is None or not is_same(self.standby, entries[-1]) or self.world.now_s < self.ready_at_s:
            self.loaded_at_s = self.world.now_s + self.world.random.expovariate(2)
        self.generation, self.standby = entries[-1].generation, None


class SimulatedHost:
    def __init__(self, world: World, name: str, rate: float) -> None:
        self.world, self.name, self.rate = world, name, rate
        self.gate = SimulatedGate()
        self.workers = SimulatedWorkers(world, self.gate)
        self.is_up, self.paused_until_s, self.cut_until_s = False, 0.0, 0.0
        self.life = 0
        self._watch = self._rest = 0
        self._is_resting = False
        self._changes: list[Change] | None = None

    def now_s(self) -> float:
        return self.world.now_s * self.rate + 100 * len(self.name)

    def start(self) -> None:
        """Start the server; nothing is left of an earlier one but its store."""
        self.gate.__init__(incarnation=self.world.random.getrandbits(40))
        self.workers.standby = self.workers.failure = None
        self.workers.loaded_at_s = self.world.now_s + self.world.random.expovariate(2)
        self.is_up = True
        self.take_over()

    def take_over(self) -> None:
        """Have another worker hold the lock: only the cells and the workers are left."""
        self.life += 1
        self._changes, self._is_resting = None, False
        setup = Setup(self.name, LEASE_S, lambda *_, **__: None, self.now_s)
        gone_s = LEASE_S * LONGER if self.world.policy == REFUSE else math.inf
        driver = self.world.make_driver(gone_s, 20.0)
        self.member = FleetMember(setup, self.gate, self.workers, driver, lambda: Member(self.gate.incarnation))
        self.world.at(0.0, self._begin, self.life)

    def _begin(self, life: int) -> None:
        if life == self.life and self.is_up and not self._postpone(self._begin, life):
            self._go_on(self.member.turn(), None, life)

    def _wake(self, rest: int) -> None:
        if self._is_resting and rest == self._rest:
            self._is_resting = False
            self._begin(self.life)

    def _postpone(self, *call) -> bool:
        if self.world.now_s < self.paused_until_s:
            self.world.at(self.paused_until_s - self.world.now_s + 1e-6, *call)
            return True
        return False

    def _go_on(self, turn, given, life: int) -> None:
        if life != self.life or not self.is_up or self._postpone(self._go_on, turn, given, life):
            return
        try:
            asked = turn.throw(given) if isinstance(given, Exception) else turn.send(given)
            while asked[0] in ("watch", "take"):  # no request, or none that is waited for
                asked = turn.send(getattr(self, asked[0])(*asked[1]))
        except StopIteration as ended:
            self._rest, self._is_resting = self._rest + 1, True
            self.world.at(max(ended.value, 0.001) * self.world.random.random(), self._wake, self._rest)
        except LeaseLostError:
            self.member.lose_lease()
            self.world.at(0.1, self._begin, life)
        except FleetError:
            self.world.at(0.2, self._begin, life)
        else:
            self.world.at(self.world.delay(), self._arrive, turn, asked, life)

    def _arrive(self, turn, asked, life: int) -> None:
        """The request reaches the keys, whatever has become of the host; the answer may not."""
        found: object = FleetError("no answer")
        if self.world.now_s >= max(self.cut_until_s, self.world.away_until_s):
            try:
                found = getattr(self.world.keys, asked[0])(*asked[1])
            except FleetError as error:
                found = error
            if self.world.random.random() < 0.01:
                found = FleetError("the answer was lost")
            elif self.world.random.random() < self.world.lateness:
                self.world.at(self.world.random.random(), self._go_on, turn, found, life)
                return
        self.world.at(self.world.delay(), self._go_on, turn, found, life)

    def take(self) -> list[Change] | None:
        found, self._changes = self._changes, None if self._changes is None else []
        return found

    def watch(self, first: str, last: str, after: int) -> None:
        """Watch: what it tells comes late, is overtaken or lost, and it may fall silent or be cut off."""
        self._watch, self._changes, last_s = self._watch + 1, [], 0.0
        number, world, keys = self._watch, self.world, self.world.keys

        def arrive(found: list[Change] | None) -> None:
            if number == self._watch and self._changes is not None:
                self._changes = None if found is None else self._changes + found
                world.at(0.0, self._wake, self._rest)

        def tell(found: list[Change]) -> None:
            nonlocal last_s
            found = [one for one in found if first <= one.key < last[:-1] + "0"]
            if number != self._watch:
                keys.watches.remove(tell)
            elif found and world.now_s >= max(self.cut_until_s, world.away_until_s):
                chance = world.random.random()
                if chance < world.lateness / 2:
                    return  # lost
                if chance < world.lateness:  # others overtake it
                    world.at(world.random.random(), arrive, found)
                    return
                last_s = max(last_s, world.now_s + world.delay())
                world.at(last_s - world.now_s, arrive, None if chance > 1 - world.lateness / 4 else found)

        for _, found in itertools.groupby(keys.find_changes(first, last, after) or (), lambda one: one.revision):
            tell(list(found))
        keys.watches.append(tell)

    @property
    def lets_in(self) -> bool:
        if not self.is_up or self.world.now_s < self.paused_until_s or self.gate.fence:
            return False
        return self.world.policy != REFUSE or self.now_s() <= self.gate.lease_until_s


class World:
    """One schedule.

    Args:
        lateness: the share of answers that come up to a second late.
        skew: by how much the clocks' rates may differ.
        events: how many kinds of mishap there are.
    """

    def __init__(self, seed: int, policy: str, lateness: float = 0.02, skew: float = 0.009, events: int = 10) -> None:
        self.random, self.policy, self.lateness = random.Random(seed), policy, lateness
        self.now_s = self.away_until_s = 0.0
        self.events, hosts = events, 3
        self._queue: list[tuple[float, int, object, tuple]] = []
        self._order = itertools.count()
        self.keys = WatchedKeys(now_s=lambda: self.now_s)
        self.make_driver = Driver
        rates = [1 + skew * (index / max(1, hosts - 1) - 0.5) for index in range(hosts)]
        self.random.shuffle(rates)
        self.hosts = [SimulatedHost(self, chr(97 + index), rates[index]) for index in range(hosts)]
        self.violations: list[str] = []
        self.let_in = self.commits = 0
        self._newest, self._published = 0, 0

    def at(self, after_s: float, call, *arguments) -> None:
        heapq.heappush(self._queue, (self.now_s + after_s, next(self._order), call, arguments))

    def delay(self) -> float:
        return self.random.expovariate(1000)

    def run(self, until_s: float) -> World:
        for host in self.hosts:
            host.start()
        self.at(0.5, self._publish)
        self.at(1.0, self._disturb)
        self.at(0.0, self._look)
        while self._queue and self._queue[0][0] < until_s:
            self.now_s, _, call, arguments = heapq.heappop(self._queue)
            call(*arguments)
            self._check()
        return self

    def _look(self) -> None:
        self.at(0.02, self._look)

    def _check(self) -> None:
        item = self.keys._items.get(COMMITTED)
        if item is not None and item.changed != self._newest:
            self._newest, self.commits = item.changed, self.commits + 1
            self._generation = View.parse(self.keys.read(*ALL)).generation
        for host in self.hosts:
            if host.lets_in and self._newest:
                self.let_in += 1
                if host.workers.generation < self._generation:
                    self.violations.append(f"{self.now_s:.3f} {host.name}: {host.workers.generation}")

    def _publish(self) -> None:
        self.at(self.random.expovariate(1), self._publish)
        view = View.parse(self.keys.read(*ALL))
        if view.proposal is None:
            self._published += 1
            name = str(self._published)
            entry = Entry(view.generation + 1, name, 1, name, name, 0, name)
            asked = {key: view.changed(key) for key in (PROPOSAL, COMMITTED)}
            self.keys.commit(Transaction(asked, puts={PROPOSAL: write_proposal(entry, PREPARE)}))

    def _disturb(self) -> None:
        self.at(self.random.expovariate(1), self._disturb)
        host, how_long_s = self.random.choice(self.hosts), self.random.expovariate(0.5)
        what = self.random.randrange(self.events)
        if what == 0:
            host.paused_until_s = self.now_s + how_long_s
        elif what in (1, 2):
            host.cut_until_s = self.now_s + how_long_s
        elif what == 3 and host.is_up:
            host.is_up = False
            self.at(how_long_s, host.start)
        elif what == 4 and host.is_up:
            host.take_over()
        elif what == 5:
            self.away_until_s = self.now_s + how_long_s / 4
        elif what == 6 and self.keys._leases:
            self.keys.revoke(self.random.choice(sorted(self.keys._leases)))
        elif what == 7:
            self._restart_keys()
        elif what > 7:  # one more worker comes, which is not prepared
            for host in self.hosts:
                host.workers.ready_at_s = max(host.workers.ready_at_s, self.now_s + self.random.expovariate(2))

    def _restart_keys(self) -> None:
        """What had no lease is all that is left, as after the death of the one process that has the keys."""
        fresh = WatchedKeys(now_s=lambda: self.now_s)
        fresh._items = {key: item for key, item in self.keys._items.items() if not item.lease}
        fresh.revision = self.keys.revision + 2**20
        self.keys = fresh
