"""What a fleet of 10, 100 and 1,000 hosts asks of etcd and of its hosts, and how long its swaps take.

    python bench/fleet_sim.py                  on made-up time, with costs that are measured first
    python bench/fleet_sim.py --hosts 10 100 --prepare 0.5 --slow 5

The members are the real ones (`serve.fleet.member`, with every decision of `serve.fleet.state`), and what they compute
takes the time that it takes; simulated are the network, the workers and the keys. What a request, and what telling one
watch of a change, costs etcd and its client is measured in processor time with a real one; a network takes `--rtt`
there and back, and etcd as much longer for a change as it was seen to (it writes to the disk). etcd does one thing
after the other, as a single core of it would; so where its share nears 1 the fleet has reached its end.
"""

from __future__ import annotations

import argparse
import collections
import functools
import heapq
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "serve" / "support")]

from etcd import Cluster  # noqa: E402
from fleet_simulator import LEASE_S, SimulatedGate, WatchedKeys  # noqa: E402

from serve.fleet.etcd import Etcd  # noqa: E402
from serve.fleet.keys import LeaseLostError, Snapshot, Transaction  # noqa: E402
from serve.fleet.member import FleetMember, Setup  # noqa: E402
from serve.fleet.messages import (  # noqa: E402
    ALL,
    COMMITTED,
    DRIVER,
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
    """Measure, in seconds of a core: what etcd and its client do for a request, an item that is read, a change told."""
    cluster = Cluster(directory)
    try:
        cluster.wait()
        keys, other = (Etcd(tuple(cluster.clients), "sim/") for _ in range(2))
        found: dict[str, float] = {}

        def server_s() -> float:
            stated = Path(f"/proc/{cluster.processes[0].pid}/stat").read_text().rpartition(")")[2].split()
            return (int(stated[11]) + int(stated[12])) / os.sysconf("SC_CLK_TCK")

        def measure(kind: str, call, times: int = 500) -> None:
            began_s, own_s, took = server_s(), time.thread_time(), []
            for _ in range(times):
                asked_s = time.perf_counter()
                call()
                took.append(time.perf_counter() - asked_s)
            found[kind] = (server_s() - began_s) / times
            found[f"{kind} (client)"] = (time.thread_time() - own_s) / times
            found[f"{kind} (latency)"] = statistics.median(took)

        lease, _ = keys.grant(600.0)
        change = lambda: keys.commit(Transaction(leased={HOSTS + "x": write(Beat(1))}, lease=lease))  # noqa: E731
        measure("change", change)
        measure("renew", lambda: keys.keep_alive(lease))
        measure("read", lambda: keys.read(HOSTS + "x", NOW, ROSTER + "x"))
        other.watch(HOSTS, HOSTS, keys.read(HOSTS).revision)
        began_s, own_s = time.process_time(), time.thread_time()
        for _ in range(300):
            change()
        found["told (client)"] = (time.process_time() - began_s - (time.thread_time() - own_s)) / 300
        for _ in range(50):
            Etcd(tuple(cluster.clients), "sim/").watch(HOSTS, HOSTS, keys.read(HOSTS).revision)
        time.sleep(1.0)
        began_s = server_s()
        for _ in range(60):
            change()
        time.sleep(1.0)
        found["told"] = max(0.0, (server_s() - began_s) / 60 - found["change"]) / 51
        for number in range(200):
            puts = {ROSTER + str(number): write(Member(number, "machine 0f0f store", TERMS))}
            keys.commit(Transaction(puts=puts, leased={HOSTS + str(number): write(Beat(number))}, lease=lease))
        measure("whole", lambda: keys.read(*ALL), 100)
        for who in ("", " (client)"):
            found[f"item{who}"] = max(0.0, found.pop(f"whole{who}") - found[f"read{who}"]) / 400
        return found
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
    """One host: turn after turn, and between them it waits for a change. It computes one thing after the other."""

    def __init__(self, fleet: Fleet, number: int, prepare_s: float) -> None:
        self.fleet, self.gate = fleet, SimulatedGate(incarnation=number + 1)
        self.workers = Workers(fleet, self.gate, prepare_s)
        setup = Setup(f"host{number}", LEASE_S, fleet.note, lambda: fleet.now_s)
        described = functools.partial(Member, number + 1, "machine 0f0f store", TERMS)
        self.member = FleetMember(setup, self.gate, self.workers, Driver(math.inf, 600.0), described)
        self.rests, self.is_resting, self.busy_s = 0, False, 0.0
        self.changes: list | None = None
        self.watched = 0
        fleet.at(number * 0.01, self.begin)  # one after the other, as an orchestrator starts them

    def begin(self) -> None:
        self.is_resting = False
        self.go_on(self.member.turn(), None)

    def wake(self, rests: int) -> None:
        if self.is_resting and rests == self.rests:
            self.begin()

    def go_on(self, turn, given) -> None:
        began_s = time.thread_time()
        try:
            name, arguments = turn.throw(given) if isinstance(given, Exception) else turn.send(given)
            while name in ("take", "watch"):
                name, arguments = turn.send(getattr(self, name)(*arguments))
        except StopIteration as ended:
            self.fleet.at(self.compute(time.thread_time() - began_s), self.rest, ended.value)
        except LeaseLostError:
            self.member.lose_lease()
            self.fleet.at(0.1, self.begin)
        else:
            own_s = time.thread_time() - began_s + self.fleet.costs[f"{KINDS[name]} (client)"]
            self.fleet.at(self.compute(own_s) + self.fleet.rtt_s / 2, self.fleet.serve, self, turn, name, arguments)

    def compute(self, seconds: float) -> float:
        self.busy_s += seconds
        return seconds

    def rest(self, pause_s: float) -> None:
        self.rests, self.is_resting = self.rests + 1, True
        if self.changes or self.changes is None:
            pause_s = 0.0
        elif self.workers.standby is not None and self.workers.ready_s > self.fleet.now_s:
            pause_s = min(pause_s, self.workers.ready_s - self.fleet.now_s + 1e-6)
        self.fleet.at(pause_s, self.wake, self.rests)

    def take(self):
        found, self.changes = self.changes, None if self.changes is None else []
        return found

    def watch(self, first: str, last: str, after: int) -> None:
        self.watched, self.changes = self.watched + 1, []
        number, keys = self.watched, self.fleet.keys

        def arrive(found) -> None:
            if number == self.watched:
                self.compute(self.fleet.costs["told (client)"])
                self.changes += found
                self.wake(self.rests)

        def tell(found) -> None:
            if number != self.watched:
                keys.watches.remove(tell)
            elif found := [one for one in found if first <= one.key < last[:-1] + "0"]:
                self.fleet.tell(arrive, found)

        for _, found in itertools.groupby(keys.find_changes(first, last, after) or (), lambda one: one.revision):
            tell(list(found))
        keys.watches.append(tell)


KINDS = {"read": "read", "commit": "change", "grant": "change", "keep_alive": "renew"}


class Fleet:
    """All of it, on made-up time."""

    def __init__(self, count: int, known: dict[str, float], rtt_s: float, prepare_s: float, slow_s: float) -> None:
        self.costs, self.rtt_s, self.now_s, self.free_s = known, rtt_s, 0.0, 0.0
        self._queue: list = []
        self._order = itertools.count()
        self.keys = WatchedKeys(now_s=lambda: self.now_s)
        self.notes: list[tuple[str, float]] = []
        self.hosts: list[Host] = []
        self.asked, self.bytes, self.busy_s = collections.Counter(), 0, 0.0
        self.hosts += [Host(self, number, slow_s if number == 0 else prepare_s) for number in range(count)]

    def at(self, after_s: float, call, *arguments) -> None:
        heapq.heappush(self._queue, (self.now_s + after_s, next(self._order), call, arguments))

    def note(self, _: str, **facts: object) -> None:
        self.notes.append((str(facts["state"]), self.now_s))

    def spend(self, cost_s: float) -> float:
        """Have etcd do something; return in how many seconds it has done it."""
        self.free_s = max(self.free_s, self.now_s) + cost_s
        self.busy_s += cost_s
        return self.free_s - self.now_s

    def tell(self, arrive, found: list) -> None:
        self.asked["told"] += 1
        # The value, and the one before it, in base64.
        self.bytes += sum(300 + 8 * len(one.item.value) // 3 for one in found if one.item is not None) + 300
        self.at(self.spend(self.costs["told"]) + self.rtt_s / 2, arrive, found)

    def serve(self, host: Host, turn, name: str, arguments: tuple) -> None:
        """Answer one request of a host."""
        kind = KINDS[name]
        cost_s, items = self.costs[kind], 0
        slower_s = max(0.0, self.costs[f"{kind} (latency)"] - cost_s - self.costs[f"{kind} (client)"])
        try:
            found: object = getattr(self.keys, name)(*arguments)
        except LeaseLostError as error:
            found = error
        if isinstance(found, Snapshot):
            items = len(found.items)
            self.bytes += sum(200 + 4 * len(one.value) // 3 for one in found.items.values())
        host.compute(self.costs["item (client)"] * items)
        self.asked[kind] += 1
        self.bytes += 700 if name == "commit" else 300
        after_s = self.spend(cost_s + self.costs["item"] * items) + slower_s + self.costs["item (client)"] * items
        self.at(after_s + self.rtt_s / 2, host.go_on, turn, found)

    def run(self, is_over, until_s: float) -> bool:
        while self._queue and self.now_s < until_s:
            if is_over():
                return True
            self.now_s, _, call, arguments = heapq.heappop(self._queue)
            call(*arguments)
        return is_over()

    def propose(self, generation: int) -> None:
        view = View.parse(self.keys.read(*ALL))
        entry = Entry(generation, f"{generation:064d}", 1, str(generation), "m", 0, str(generation))
        asked = {key: view.changed(key) for key in (PROPOSAL, COMMITTED)}
        self.keys.commit(Transaction(asked, puts={PROPOSAL: write_proposal(entry, PREPARE)}))


def measure(count: int, known: dict[str, float], options: argparse.Namespace, slow_s: float) -> dict[str, float]:
    fleet = Fleet(count, known, options.rtt, options.prepare, slow_s)
    is_in = lambda: sum(key.startswith(ROSTER) for key in fleet.keys._items) == count  # noqa: E731
    if not fleet.run(is_in, 600.0):
        return {"joined after s": math.inf}
    joined_s = fleet.now_s
    fleet.run(lambda: False, joined_s + 3)
    driver = fleet.hosts[int(fleet.keys.read(DRIVER).items[DRIVER].value[len("host") :])]

    def state() -> tuple[float, float, int, int, int, float, float]:
        others_s = sum(host.busy_s for host in fleet.hosts) - driver.busy_s
        told = fleet.asked["told"]
        asked = sum(fleet.asked.values()) - told
        return fleet.now_s, fleet.busy_s, asked, told, fleet.bytes, driver.busy_s, others_s / max(1, count - 1)

    def since(before: tuple) -> list[float]:
        return [now - then for now, then in zip(state(), before)]

    before = state()
    fleet.run(lambda: False, fleet.now_s + 3)
    seconds, busy_s, asked, _, sent, driver_s, other_s = since(before)
    found = {
        "joined after s": joined_s, "idle: requests/s": asked / seconds, "idle: MB/s": sent / seconds / 1e6,
        "idle: share of etcd": busy_s / seconds, "idle: share of the driver's core": driver_s / seconds,
        "idle: share of another host's core": other_s / seconds,
    }  # fmt: skip
    fleet.notes.clear()
    before = state()
    fleet.propose(1)
    is_done = fleet.run(lambda: all(host.workers.generation == 1 for host in fleet.hosts), fleet.now_s + 600)
    moved_s = since(before)[0]
    fleet.run(lambda: False, fleet.now_s + 2)
    _, busy_s, asked, told, sent, driver_s, other_s = since(before)
    times = dict(fleet.notes)
    fences = sum(state == "fence" for state, _ in fleet.notes)
    return {
        **found, "swap: requests": asked, "swap: changes told": told, "swap: MB": sent / 1e6,
        "swap: s": moved_s if is_done else math.inf,
        "swap: fence to commit ms": (times["commit"] - times["fence"]) * 1000 if is_done else math.inf,
        "swap: fences": fences, "swap: s of etcd": busy_s, "swap: s of the driver's core": driver_s,
        "swap: s of another host's core": other_s,
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
    columns = {}
    for count in options.hosts:
        for name, slow_s in ((f"{count}", options.prepare), (f"{count}, one slow", options.slow)):
            columns[name] = measure(count, known, options, slow_s)
            print(name, columns[name], file=sys.stderr, flush=True)
    print("| | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(f"{found.get(name, math.nan):.3g}" for found in columns.values()) + " |")


if __name__ == "__main__":
    main()
