"""Hosts in network namespaces of their own, etcd in the middle, and lines on which packets are dropped.

Each host has two lines to the namespace of the test: over one it is asked, over the other it reaches etcd, and only
that one is cut: nobody is answered that it is, as when a switch fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time

import pytest
import serving
from etcd import Cluster, free_ports
from serving import Load, Server, find_steps_back, wait_until
from trainer import ROW

from serve.fleet.etcd import Etcd
from serve.fleet.messages import ALL, View
from serve.fleet.state import REFUSE, WAIT

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.nightly,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are made by root"),
    pytest.mark.skipif(
        not (shutil.which("ip") and shutil.which("iptables")), reason="apt-get install iproute2 iptables"
    ),
]


def run(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)


class Machine:
    """A network namespace with a line for requests and one for etcd."""

    def __init__(self, number: int) -> None:
        self.name, self._prefix = f"fleet{os.getpid()}-{number}", f"f{os.getpid() % 100000}{number}"
        self.address, self.etcd_address = f"10.213.{number}.2", f"10.214.{number}.1"
        self._lines = {"d": (f"10.213.{number}.1", self.address), "c": (self.etcd_address, f"10.214.{number}.2")}

    def __enter__(self) -> Machine:
        run("ip", "netns", "add", self.name)
        for kind, (outer, inner) in self._lines.items():
            ends = f"{self._prefix}{kind}o", f"{self._prefix}{kind}i"
            run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", self.name)
            run("ip", "addr", "add", f"{outer}/30", "dev", ends[0])
            run("ip", "link", "set", ends[0], "up")
            run(*self.inside, "ip", "addr", "add", f"{inner}/30", "dev", ends[1])
            run(*self.inside, "ip", "link", "set", ends[1], "up")
        run(*self.inside, "ip", "link", "set", "lo", "up")
        return self

    def __exit__(self, *error: object) -> None:
        run("ip", "netns", "del", self.name)  # its lines go with it

    @property
    def inside(self) -> tuple[str, ...]:
        return "ip", "netns", "exec", self.name

    @contextlib.contextmanager
    def cut_off(self):
        """Drop all packets from and to etcd while a block runs."""
        rules = [("INPUT", "-i"), ("OUTPUT", "-o")]
        for chain, way in rules:
            run(*self.inside, "iptables", "-A", chain, way, f"{self._prefix}ci", "-j", "DROP")
        try:
            yield
        finally:
            for chain, way in rules:
                run(*self.inside, "iptables", "-D", chain, way, f"{self._prefix}ci", "-j", "DROP")


@pytest.fixture
def machines():
    with contextlib.ExitStack() as stack:
        try:
            yield [stack.enter_context(Machine(number)) for number in (1, 2)]
        except AssertionError as error:
            pytest.skip(f"no network namespaces here: {error}")


@pytest.mark.parametrize("policy", [WAIT, REFUSE])
def test_a_host_whose_line_to_etcd_is_cut_answers_nothing_old(machines, tmp_path, trainer, policy, monkeypatch):
    monkeypatch.setattr(serving, "PATIENCE_S", 300)  # these servers import torch for themselves
    (port,) = free_ports(1)
    listens = ",".join(f"http://{address}:{port}" for address in (*(one.etcd_address for one in machines), "127.0.0.1"))
    cluster = Cluster(tmp_path, options=(f"--listen-client-urls={listens}",))
    cluster.clients = [f"http://127.0.0.1:{port}"]
    servers: list[Server] = []

    def view() -> View:
        return View.parse(Etcd(tuple(cluster.clients), "tests/affine/stable/").read(*ALL))

    def are_at(generation: int) -> bool:
        beats = view().beats.values()
        return len(beats) == 2 and all(beat.live == generation for beat in beats)

    try:
        cluster.wait()
        trainer.publish(1)
        for machine in machines:
            place = tmp_path / machine.name
            place.mkdir()
            stated = {"commit": "fleet", "fleet_host": machine.name, "fleet_cut_off": policy}
            stated |= {"fleet": f"etcd:http://{machine.etcd_address}:{port}/tests", "worker": "asgi", "workers": 1}
            # A machine that does much else may be late for its lease as well.
            stated["fleet_hold_s"] = 20.0 if servers else 0.5
            stated |= {"prefix": machine.inside, "bind": f"{machine.address}:{free_ports(1)[0]}"}
            servers.append(Server(place, trainer.directory, stated))
        log = lambda: "\n".join(server.text[-3000:] for server in servers)  # noqa: E731
        wait_until(lambda: are_at(1), "both at 1", log)
        with Load(servers[0], ROW, threads=2) as cut, Load(servers[1], ROW, threads=2) as other:
            cut.wait_for_more(20)
            other.wait_for_more(20)
            with machines[0].cut_off():
                trainer.publish(2)
                if policy == REFUSE:
                    other.wait_for_generation(2)
                time.sleep(4.0)  # two leases
                cut.wait_for_more(4)
                other.wait_for_more(20)
                during = cut.all()[-1], other.all()[-1]
            wait_until(lambda: are_at(2), "both at 2", log)
            cut.wait_for_more(20)
            other.wait_for_more(20)
            trainer.publish(3)
            wait_until(lambda: are_at(3), "both at 3", log)
            cut.wait_for_more(20)
    finally:
        for server in servers:
            server.stop()
        cluster.stop()
    assert cut.failures == other.failures == []
    if policy == WAIT:  # nobody has noticed, and nobody has moved
        assert [(reply.status, reply.generation) for reply in during] == [(200, 1), (200, 1)]
        assert {reply.status for reply in cut.all()} == {200}
    else:
        assert (during[0].status, during[1].status, during[1].generation) == (503, 200, 2)
    assert {reply.status for reply in other.all()} == {200}
    replies = sorted((reply for load in (cut, other) for reply in load.all()), key=lambda reply: reply.received_s)
    answered = [reply for reply in replies if reply.status == 200]
    assert find_steps_back(answered) == []
    assert {answered[-1].generation, cut.all()[-1].generation} == {3}
