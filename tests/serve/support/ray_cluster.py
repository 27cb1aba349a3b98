"""A cluster of Ray in processes of this machine, with the application of `serve.ray_app`; nothing here is imported by
tests that need no Ray."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

from etcd import free_ports
from serving import PATIENCE_S, ROOT, SUPPORT, Client, wait_until

ENVIRON = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # An idle interpreter for each core takes as long to start as one that is needed.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_agent_register_timeout_ms": "100000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_worker_niceness": "0",
    "PYTHONPATH": f"{ROOT}:{SUPPORT}",
    "ENVSERVE_ENV_DIGEST": "sha256:0123",
    "PYTHONWARNINGS": "ignore",
}
# Neither what Ray scales a cluster with, nor what it shows.
SMALL = {
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,
    "object_store_memory": 80 * 1024 * 1024,
}


class RayHosts:
    """Raylets, each a host with a name, a store and `cpus` of its own, and an application over all of them."""

    def __init__(self, directory: Path, checkpoints: Path, cpus: int = 1) -> None:
        for name in [name for name in os.environ if name.startswith(("SERVE_", "RAY_"))]:
            del os.environ[name]
        # Its sockets' paths must be short.
        self.scratch = Path(tempfile.mkdtemp(prefix="ray"))
        os.environ.update(ENVIRON, RAY_TMPDIR=str(self.scratch))
        # Else each of its processes would compile all of Ray.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        import ray
        from ray.cluster_utils import Cluster

        self.ray, self.directory, self.cpus = ray, directory, cpus
        self._settings = {
            "model": "affine:Affine",
            "name": "affine",
            "checkpoints": str(checkpoints),
            "python_path": [str(SUPPORT)],
            "fleet": f"ray:{directory}/keeper",
            "poll_s": 0.2,
        }
        be_patient()
        (self.port,) = free_ports(1)
        self.cluster = Cluster()

    def begin(self, names: str) -> None:
        """Start the raylets and Serve."""
        self.nodes = {name: self.add(name) for name in names}
        self.ray.init(self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        from ray import serve

        self.serve = serve
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": self.port})

    def add(self, name: str):
        """Start a raylet."""
        env = {"SERVE_FLEET_HOST": name, "SERVE_STORE": str(self.store(name))}
        return self.cluster.add_node(num_cpus=self.cpus, env_vars=env, **SMALL)

    def run(self, replicas: int, wait: bool = True, **settings: object) -> None:
        """Deploy, or scale what is deployed."""
        from serve.ray_app import application

        self._settings.update(settings)
        # As many on a node as it has processors; with another bound in each deployment, Ray waits for room for ever.
        options = {"num_replicas": replicas, "ray_actor_options": {"num_cpus": 1}}
        app = application({"settings": self._settings, **options})
        self.serve.run(app, name="affine") if wait else self.serve._run(app, name="affine", _blocking=False)

    def store(self, name: str) -> Path:
        return self.directory / name / "store"

    @property
    def text(self) -> str:
        """The last of what the replicas have told."""
        logs = sorted(self.scratch.glob("session_*/logs/serve/replica_*.log"))
        return "".join(path.read_text()[-2000:] for path in logs)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def client(self) -> Client:
        return Client(self.port)

    def keys(self):
        from serve.fleet.ray_keys import RayKeys

        return RayKeys(f"{self.directory}/keeper", "affine@stable")

    def view(self):
        """What the fleet knows; the actor that has it may be about to start."""
        from serve.errors import FleetError
        from serve.fleet.messages import ALL, View

        def read():
            with contextlib.suppress(FleetError):
                return View.parse(self.keys().read(*ALL))

        return wait_until(read, "the keeper")

    def keeper(self) -> int:
        """The process id of the actor that has the keys."""
        actor = self.ray.get_actor(f"{self.directory}/keeper", namespace="envserve")
        return self.ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))

    def replicas(self, name: str) -> list[int]:
        """The process ids of a host's replicas."""
        from serve.swap.shared_state import Membership, SharedState

        shared_state = SharedState(self.store(name) / "word")
        return [row.pid for row in Membership(self.store(name) / "workers", shared_state).survey().alive.values()]

    def history(self, name: str) -> list[tuple[int, str]]:
        lines = (self.store(name) / "generations.jsonl").read_text().splitlines()
        return [(line["generation"], line["sha256"]) for line in map(json.loads, lines)]

    def events(self, name: str, kind: str) -> list[dict]:
        lines = map(json.loads, (self.store(name) / "events.jsonl").read_text().splitlines())
        return [line for line in lines if line["event"] == kind]

    def wait_settled(self, generation: int, names: str) -> None:
        """Wait until Ray has started and ended all that it means to, and hosts are ready."""

        def ask():
            return self.serve.status().applications["affine"]

        wait_until(lambda: ask().status == "RUNNING", "Ray's word", lambda: f"{ask()}\n{self.view()}\n{self.text}")
        self.wait_ready(generation, names)

    def wait_ready(self, generation: int, names: str) -> None:
        """Wait until every replica of some hosts answers with a generation, and these are all hosts."""

        def is_ready() -> bool:
            view = self.view()
            beats = [view.beat_of(name) for name in view.roster]
            return sorted(view.roster) == sorted(names) and all(
                beat is not None and beat.live == generation for beat in beats
            )

        wait_until(is_ready, f"{names} at {generation}", lambda: f"{self.view()}\n{self.text}")

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.serve.shutdown()
        self.ray.shutdown()
        self.cluster.shutdown()
        shutil.rmtree(self.scratch, ignore_errors=True)


def be_patient() -> None:
    """Change what Ray gives up after seconds, and what it starts that takes a whole core for half a minute."""
    from ray._private import node, services, utils

    services.get_node = functools.partial(_ask_patiently, services.get_node)
    services.start_raylet = functools.partial(_start_without_waiting, services.start_raylet)
    node.Node.start_api_server = lambda *_, **__: None
    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted")


def _start_without_waiting(start, *arguments, **keywords):
    """A raylet waits 15 seconds, and dies, for two interpreters that write down where they listen."""
    import ray._raylet

    (keywords["runtime_env_agent_port"],) = free_ports(1)
    if hasattr(ray._raylet, "persist_port"):
        node_id, session = arguments[2], arguments[11]
        ports = dict.fromkeys(("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"), -1)
        ports["runtime_env_agent_port"] = keywords["runtime_env_agent_port"]
        for name, port in ports.items():
            ray._raylet.persist_port(session, node_id, name, port)
    return start(*arguments, **keywords)


def _ask_patiently(get_node, *arguments):
    """Ray gives a raylet half a minute to come up, which may be too little on a machine that does other work."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return get_node(*arguments)
        except RuntimeError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)
