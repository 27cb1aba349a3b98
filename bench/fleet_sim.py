"""What a fleet of 10, 100 and 1,000 hosts asks of etcd and of its hosts, and how long its swaps take.

    python bench/fleet_sim.py                  on made-up time, with costs that are measured first
    python bench/fleet_sim.py --hosts 10 100 --prepare 0.5 --slow 5

The members are the real ones (`serve.fleet.member`, with every decision of `serve.fleet.state`); simulated are time,
the network, the workers and the keys. What a request costs etcd is measured with a real one, what a look costs a host
with the real parser; a network takes `--rtt` there and back. etcd answers one request after the other, as a single core
of it would; so where its share nears 1 the fleet has reached its end.
"""

from __future__ import annotations

import argparse
import collections
import functools
import heapq
import http.client
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "serve" / "support")]

from etcd import Cluster  # noqa: E402
from fleet_simulator import LEASE_S, MemoryKeys, SimulatedGate  # noqa: E402

from serve.fleet import member as member_module  # noqa: E402
from serve.fleet.etcd import Etcd  # noqa: E402
from serve.fleet.keys import LeaseLostError, Snapshot, Transaction  # noqa: E402
from serve.fleet.member import FleetMember, Setup  # noqa: E402
from serve.fleet.messages import (  # noqa: E402
    COMMITTED,
    HOSTS,
    NOW,
    PREPARE,
    PROPOSAL,
    ROSTER,
    Beat,
    Member,
    View,
    is_same,
    write,
    write_proposal,
)  # fmt: skip
from serve.fleet.state import Driver, Local  # noqa: E402
from serve.store.ledger import Entry  # noqa: E402

TERMS = {"environment": "sha256:" + "0" * 64, "source": "1" * 64, "settings": "2" * 64, "protocol": "1"}


def costs(directory: Path) -> dict[str, float]:
    """Measure, in seconds: a change, a renewal, a read, and what a read and a look cost for each host more."""
    cluster = Cluster(directory)
    try:
        cluster.wait()
        keys = Etcd(tuple(cluster.clients), "sim/")

        def median(call, times: int = 60) -> float:
            taken = []
            for _ in range(times):
                began_s = time.perf_counter()
                call()
                taken.append(time.perf_counter() - began_s)
            return statistics.median(taken)

        lease, _ = keys.grant(600.0)
        change_s = median(lambda: keys.commit(Transaction(leased={NOW + HOSTS + "x": write(Beat(1))}, lease=lease)))
        # Bytes alone, since what a host makes of them is no part of what etcd does.
        link = http.client.HTTPConnection(keys._connection.host, keys._connection.port)
        wanted = json.dumps(keys._range_of(NOW))

        def fetch() -> None:
            link.request("POST", "/v3/kv/range", wanted)
            link.getresponse().read()

        renew_s, read_s = median(lambda: keys.keep_alive(lease)), median(fetch)
        for number in range(200):
            member = Member(number, "machine 0f0f store", TERMS)
            puts = {NOW + ROSTER + str(number): write(member)}
            keys.commit(Transaction(puts=puts, leased={NOW + HOSTS + str(number): write(Beat(number))}, lease=lease))
        each_s = (median(fetch) - read_s) / 200
        look_s = (median(lambda: View.parse(keys.read(NOW))) - median(fetch)) / 200
        return {"change": change_s, "renew": renew_s, "read": read_s, "read_each": max(each_s, 0), "look_each": look_s}
    finally:
        cluster.stop()


class Workers:
    """The workers of a host, which are prepared after a while."""

    def __init__(self, fleet: Fleet, gate: SimulatedGate, prepare_s: float) -> None:
        self.fleet, self.gate, self.prepare_s = fleet, gate, prepare_s
        self.generation, self.standby, self.ready_s = 0, None, 0.0

    def look(self, view: View) -> Local:
        is_ready = self.standby is not None and self.fleet.now_s >= self.ready_s
        prepared = is_ready and view.proposal is not None and is_same(self.standby, view.proposal.entry)
        stands_by = is_ready and view.committed is not None and is_same(self.standby, view.committed)
        return Local(self.generation, self.generation, self.gate.fence, prepared, stands_by)

    def prepare(self, entry: Entry, number: int) -> None:
        if self.gate.attempt != number:
            self.gate.attempt, self.standby = number, entry
            self.ready_s = self.fleet.now_s + self.prepare_s

    def drop(self) -> None:
        if self.standby is not None and self.standby.generation > self.generation:
            self.standby = None

    def follow(self, entries: list[Entry]) -> None:
        self.generation, self.standby = entries[-1].generation, None


class Host:
    """One host: turn after turn, and between them it waits for a change."""

    def __init__(self, fleet: Fleet, number: int, prepare_s: float) -> None:
        self.fleet, self.gate = fleet, SimulatedGate(incarnation=number + 1)
        self.workers = Workers(fleet, self.gate, prepare_s)
        setup = Setup(f"host{number}", LEASE_S, fleet.note, lambda: fleet.now_s)
        described = functools.partial(Member, number + 1, "machine 0f0f store", TERMS)
        self.member = FleetMember(setup, self.gate, self.workers, Driver(math.inf, 600.0), described)
        self.turns, self.wake, self.seen = 0, 0, 0
        fleet.at(number * 0.001, self.begin, 0)

    def begin(self, wake: int) -> None:
        if wake == self.wake:
            self.wake += 1
            self.turns += 1
            self.seen = self.fleet.keys.revision
            self.go_on(self.member.turn(), None)

    def go_on(self, turn, given) -> None:
        try:
            name, arguments = turn.throw(given) if isinstance(given, Exception) else turn.send(given)
        except StopIteration as ended:
            look_s = self.fleet.costs["look_each"] * len(self.fleet.hosts)
            self.fleet.at(look_s, self.rest, ended.value)
        except LeaseLostError:
            self.gate.lease = (0, 0.0)
            self.fleet.at(0.1, self.begin, self.wake)
        else:
            self.fleet.at(self.fleet.rtt_s / 2, self.fleet.serve, self, turn, name, arguments)

    def rest(self, pause_s: float) -> None:
        if self.fleet.keys.revision > self.seen:
            pause_s = self.fleet.rtt_s / 2
        elif self.workers.standby is not None and self.workers.ready_s > self.fleet.now_s:
            pause_s = min(pause_s, self.workers.ready_s - self.fleet.now_s + 1e-6)
        self.fleet.resting.add(self)
        self.fleet.at(pause_s, self.begin, self.wake)


class Fleet:
    """All of it, on made-up time."""

    def __init__(self, count: int, known: dict[str, float], rtt_s: float, prepare_s: float, slow_s: float) -> None:
        self.costs, self.rtt_s, self.now_s, self.free_s = known, rtt_s, 0.0, 0.0
        self._queue: list = []
        self._order = itertools.count()
        self.keys = MemoryKeys(now_s=lambda: self.now_s)
        self.resting: set[Host] = set()
        self.notes: list[tuple[str, float]] = []
        self.hosts: list[Host] = []
        self.asked, self.bytes, self.busy_s = collections.Counter(), 0, 0.0
        self.hosts += [Host(self, number, slow_s if number == 0 else prepare_s) for number in range(count)]

    def at(self, after_s: float, call, *arguments) -> None:
        heapq.heappush(self._queue, (self.now_s + after_s, next(self._order), call, arguments))

    def note(self, _: str, **facts: object) -> None:
        self.notes.append((str(facts["state"]), self.now_s))

    def serve(self, host: Host, turn, name: str, arguments: tuple) -> None:
        """Answer one request of a host; whoever rests wakes at a change."""
        before = self.keys.revision
        try:
            found: object = getattr(self.keys, name)(*arguments)
        except LeaseLostError as error:
            found = error
        items = len(found.items) if isinstance(found, Snapshot) else 0
        kind = {"read": "read", "commit": "change", "grant": "change", "keep_alive": "renew"}[name]
        cost_s = self.costs[kind] + self.costs["read_each"] * items / 2  # a host has two items
        self.free_s = max(self.free_s, self.now_s) + cost_s
        self.busy_s += cost_s
        self.asked[kind] += 1
        self.bytes += 220 * items + 300
        self.at(self.free_s - self.now_s + self.rtt_s / 2, host.go_on, turn, found)
        if self.keys.revision > before:
            for one in self.resting:
                self.at(self.rtt_s / 2, one.begin, one.wake)
            self.resting = set()

    def run(self, is_over, until_s: float) -> bool:
        while self._queue and self.now_s < until_s:
            if is_over():
                return True
            self.now_s, _, call, arguments = heapq.heappop(self._queue)
            call(*arguments)
        return is_over()

    def propose(self, generation: int) -> None:
        view = View.parse(self.keys.read(NOW))
        entry = Entry(generation, f"{generation:064d}", 1, str(generation), "m", 0, str(generation))
        asked = {NOW + key: view.changed(key) for key in (PROPOSAL, COMMITTED)}
        self.keys.commit(Transaction(asked, puts={NOW + PROPOSAL: write_proposal(entry, PREPARE)}))
        for one in self.resting:
            self.at(self.rtt_s / 2, one.begin, one.wake)
        self.resting = set()


def measure(count: int, known: dict[str, float], options: argparse.Namespace, slow_s: float) -> dict[str, float]:
    fleet = Fleet(count, known, options.rtt, options.prepare, slow_s)
    is_in = lambda: sum(key.startswith(NOW + ROSTER) for key in fleet.keys._items) == count  # noqa: E731
    if not fleet.run(is_in, 600.0):
        return {"joined after s": math.inf}
    joined_s = fleet.now_s
    fleet.run(lambda: False, joined_s + 3)
    began_s, busy_s, before, sent = fleet.now_s, fleet.busy_s, sum(fleet.asked.values()), fleet.bytes
    turns = sum(host.turns for host in fleet.hosts)
    fleet.run(lambda: False, began_s + 3)
    idle_s = fleet.now_s - began_s
    turns = (sum(host.turns for host in fleet.hosts) - turns) / count / idle_s
    idle = {
        "joined after s": joined_s, "requests/s": (sum(fleet.asked.values()) - before) / idle_s,
        "MB/s": (fleet.bytes - sent) / idle_s / 1e6, "share of etcd": (fleet.busy_s - busy_s) / idle_s,
        "share of a host's core": turns * known["look_each"] * count,
    }  # fmt: skip
    asked, sent = sum(fleet.asked.values()), fleet.bytes
    fleet.notes.clear()
    proposed_s = fleet.now_s
    fleet.propose(1)
    is_done = fleet.run(lambda: all(host.workers.generation == 1 for host in fleet.hosts), proposed_s + 600)
    times = dict(fleet.notes)
    fences = sum(state == "fence" for state, _ in fleet.notes)
    return {
        **idle, "swap: requests": sum(fleet.asked.values()) - asked, "swap: MB": (fleet.bytes - sent) / 1e6,
        "swap: s": fleet.now_s - proposed_s if is_done else math.inf,
        "swap: fence to commit ms": (times["commit"] - times["fence"]) * 1000 if is_done else math.inf,
        "swap: fences": fences,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rtt", type=float, default=0.0005, help="seconds")
    parser.add_argument("--prepare", type=float, default=0.5, help="seconds in which a host is prepared")
    parser.add_argument("--slow", type=float, default=5.0, help="seconds in which one host is, in a second column")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        known = costs(Path(directory))
    print("costs in ms: " + ", ".join(f"{name} {seconds * 1000:.3f}" for name, seconds in known.items()))
    # All hosts read the same snapshots; what that costs each is in the measured figure.
    parse = View.parse
    parsed: dict[int, View] = {}

    def parse_once(snapshot: Snapshot) -> View:
        if snapshot.revision not in parsed:
            parsed.clear()
            parsed[snapshot.revision] = parse(snapshot)
        return parsed[snapshot.revision]

    member_module.View.parse = parse_once
    columns = {}
    for count in options.hosts:
        columns[f"{count}"] = measure(count, known, options, options.prepare)
        columns[f"{count}, one slow"] = measure(count, known, options, options.slow)
    print("| | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(f"{found.get(name, math.nan):.3g}" for found in columns.values()) + " |")


if __name__ == "__main__":
    main()
