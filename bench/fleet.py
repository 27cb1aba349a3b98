"""How long a fence lasts: real hosts (gunicorn, torch) on this machine, with a real etcd, while requests go on.

python bench/fleet.py --hosts 3 --swaps 100
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "serve" / "support")]

from etcd import Cluster  # noqa: E402
from serving import Load, Server, find_steps_back, wait_until  # noqa: E402
from trainer import ROW, Trainer  # noqa: E402


def measure(directory: Path, hosts: int, swaps: int) -> None:
    cluster, trainer = Cluster(directory), Trainer(directory / "work", directory / "published")
    servers: list[Server] = []
    try:
        cluster.wait()
        trainer.publish(1)
        for number in range(hosts):
            place = directory / f"host{number}"
            place.mkdir()
            settings = {"commit": "fleet", "fleet": cluster.address, "fleet_host": place.name, "worker": "asgi"}
            servers.append(Server(place, trainer.directory, settings))

        def is_at(generation: int) -> bool:
            return all(
                server.client().predict([ROW]).headers.get("x-model-generation") == generation for server in servers
            )

        wait_until(lambda: is_at("1"), "all at 1", lambda: servers[0].text)
        with Load(servers[0], ROW, threads=1) as one, Load(servers[-1], ROW, threads=1) as other:
            for generation in range(2, swaps + 2):
                trainer.publish(generation)
                wait_until(lambda at=str(generation): is_at(at), "all there", lambda: servers[0].text)
                time.sleep(0.1)
        replies = sorted((*one.all(), *other.all()), key=lambda reply: reply.received_s)
    finally:
        for server in servers:
            server.stop()
        cluster.stop()
    told = sorted((line["time"], line["state"]) for server in servers for line in server.events("fleet"))
    began: datetime | None = None
    took_ms = []
    for at, state in told:
        if state == "fence":
            began = datetime.fromisoformat(at)
        elif state == "commit" and began is not None:
            took_ms.append((datetime.fromisoformat(at) - began).total_seconds() * 1000)
    took_ms.sort()
    print(
        f"{hosts} hosts, {len(took_ms)} commits: fence to commit ms: median {statistics.median(took_ms):.0f},"
        f" p95 {took_ms[int(len(took_ms) * 0.95)]:.0f}, max {took_ms[-1]:.0f};"
        f" {sum(state == 'unfence' for _, state in told)} fences taken back; {len(replies)} answers, of them"
        f" {sum(reply.status != 200 for reply in replies)} not 200, {len(find_steps_back(replies))} older than another"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--swaps", type=int, default=100)
    options = parser.parse_args()
    for count in options.hosts:
        with tempfile.TemporaryDirectory() as directory:
            measure(Path(directory), count, options.swaps)


if __name__ == "__main__":
    main()
