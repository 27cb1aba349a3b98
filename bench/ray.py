"""Old answers after new ones: an update by this project's fleet, and by Ray Serve's own `user_config`, side by side.

    python bench/ray.py                      # 2 raylets, 4 replicas of each, 8 updates, requests from 4 threads
    python bench/ray.py --replicas 2 --updates 20

Both applications run in the same cluster and have the same model, replicas and requests, one after the other: load,
then updates, each as soon as the one before has answered. A request counts as old that began after an answer of a
later generation had come, on whatever connection.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Instead of this directory, in which `ray` is this file.
sys.path[:1] = [str(ROOT), str(ROOT / "tests" / "serve" / "support")]

from ray_cluster import RayHosts  # noqa: E402
from serving import Load, find_steps_back  # noqa: E402
from trainer import ROW, Trainer  # noqa: E402


class Side:
    """What `Load` sends to: the same for both."""

    text = ""

    def __init__(self, hosts: RayHosts, path: str) -> None:
        self._hosts, self._path = hosts, path

    def client(self):
        client = self._hosts.client()
        ask, body = client.request, json.dumps({"inputs": [ROW]}).encode()
        client.predict = lambda _: ask("POST", self._path, body)
        return client


def measure(side: Side, update, generations: range, threads: int) -> dict[str, object]:
    """Update under load; `update` begins one, and returns when whoever orders it would take it for done."""
    seconds = []
    with Load(side, ROW, threads=threads) as load:
        load.wait_for_more(50)
        for generation in generations:
            started_s = time.monotonic()
            update(generation)
            load.wait_for_generation(generation)
            seconds.append(time.monotonic() - started_s)
            load.wait_for_more(100)
    replies = load.all()
    answered = [reply for reply in replies if reply.status == 200]
    old = find_steps_back(answered)
    took = [reply.received_s - reply.sent_s for reply in answered]
    return {
        "requests": len(replies) + len(load.failures),
        "failed": len(replies) - len(answered) + len(load.failures),
        "old_after_new": len(old),
        "update_s_median": round(statistics.median(seconds), 3),
        "update_s_max": round(max(seconds), 3),
        "request_s_median": round(statistics.median(took), 4),
        "request_s_p99": round(statistics.quantiles(took, n=100)[98], 4),
        "requests_per_s": round(len(answered) / (answered[-1].received_s - answered[0].received_s)),
    }


def deploy_plain(replicas: int, config: dict[str, object]) -> None:
    """As `serve deploy` of Ray does with a file in which only `user_config` is another: replicas stay, and load it."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    options = {"name": "Plain", "num_replicas": replicas, "user_config": config, "ray_actor_options": {"num_cpus": 1}}
    app = {"name": "plain", "import_path": "plain_ray:app", "route_prefix": "/", "deployments": [options]}
    _get_global_client().deploy_apps(ServeDeploySchema.parse_obj({"applications": [app]}), _blocking=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--threads", type=int, default=4)
    stated = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="envserve-ray-"))
    trainer = Trainer(directory / "work", directory / "checkpoints")
    hosts = RayHosts(directory, trainer.directory, cpus=-(-stated.replicas // 2))
    generations = range(2, 2 + stated.updates)
    try:
        hosts.begin("ab")
        trainer.publish(1)
        hosts.run(stated.replicas)
        hosts.wait_ready(1, "ab")
        found = {"fleet": measure(Side(hosts, "/predict"), trainer.publish, generations, stated.threads)}
        hosts.serve.delete("affine")

        def configure(generation: int) -> None:
            path = trainer.train(generation, f"plain_{generation}.safetensors")
            deploy_plain(stated.replicas, {"path": str(path), "generation": generation})

        configure(1)
        found["user_config"] = measure(Side(hosts, "/"), configure, generations, stated.threads)
        print(json.dumps({**vars(stated), "cores": os.cpu_count(), "ray": hosts.ray.__version__, **found}, indent=1))
    finally:
        hosts.stop()


if __name__ == "__main__":
    main()
