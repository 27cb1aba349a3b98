"""Hosts of a Ray cluster that move as one: real Ray, three raylets, processes that are killed.

Nightly, because Ray alone takes twenty seconds of processor time to start; its keys are tested in every run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys

import pytest
from serving import Load, find_steps_back, wait_until
from trainer import ROW, Trainer, mark

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.nightly,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray: pip install 'envserve[ray]'"),
]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ray")
    return Trainer(directory / "work", directory / "checkpoints")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory, trainer):
    """Three hosts that answer with generation 1."""
    from ray_cluster import RayHosts

    before = dict(os.environ)
    found = RayHosts(tmp_path_factory.mktemp("hosts"), trainer.directory)
    try:
        found.begin("abc")
        trainer.publish(1)
        found.run(3)
        found.wait_ready(1, "abc")
        yield found
    finally:
        found.stop()
        os.environ.clear()
        os.environ.update(before)


def judge(load: Load, trainer, failures: int = 0):
    """Nothing failed, every answer is that of the checkpoint it names, and none is older than one that had come."""
    replies = load.all()
    assert len(load.failures) + sum(reply.status != 200 for reply in replies) <= failures, load.failures
    replies = [reply for reply in replies if reply.status == 200]
    assert [reply for reply in replies if reply.json["outputs"] != [trainer.expected(reply.sha256)]] == []
    assert find_steps_back(replies) == []
    return replies


def test_all_hosts_move_as_one_and_back(hosts, trainer):
    with Load(hosts, ROW, threads=4) as load:
        for generation in range(2, 8):
            trainer.publish(generation)
            load.wait_for_generation(generation)
        bad = trainer.directory / "bad.safetensors"
        bad.write_text("<html>not found</html>")
        mark(bad)
        wait_until(lambda: any(hosts.events(name, "refused") for name in "abc"), "its refusal")
        environ = {**os.environ, "SERVE_STORE": str(hosts.store("b")), "SERVE_MODEL": "affine:Affine"}
        environ["SERVE_CHECKPOINTS"] = str(trainer.directory)
        subprocess.run([sys.executable, "-m", "serve", "rollback"], env=environ, check=True, cwd=hosts.directory)
        load.wait_for_generation(8)
        load.wait_for_more(20)
    assert {reply.generation for reply in judge(load, trainer)} == set(range(1, 9))
    assert hosts.history("a") == hosts.history("b")
    assert hosts.history("a")[-1] == (8, trainer.sha256(6))


def test_replicas_come_and_go_during_swaps(hosts, trainer):
    """Deployed again, all of them are others: `serve.run` takes every application for new code."""
    first = hosts.view().generation
    with Load(hosts, ROW, threads=4) as load:
        hosts.run(2, wait=False)
        for generation in (first + 1, first + 2):
            trainer.publish(generation)
            load.wait_for_generation(generation)
        wait_until(lambda: len(hosts.view().roster) == 2, "one host has left", lambda: str(hosts.view()))
        trainer.publish(first + 3)
        load.wait_for_generation(first + 3)
        hosts.run(3, wait=False)
        trainer.publish(first + 4)
        load.wait_for_generation(first + 4)
        hosts.wait_settled(first + 4, "abc")
        trainer.publish(first + 5)
        load.wait_for_generation(first + 5)
        load.wait_for_more(20)
    assert {reply.generation for reply in judge(load, trainer)} >= set(range(first + 1, first + 6))


def test_whoever_is_killed_is_not_waited_for(hosts, trainer):
    first = hosts.view().generation
    with Load(hosts, ROW, threads=4) as load:
        os.kill(hosts.keeper(), signal.SIGKILL)
        trainer.publish(first + 1)
        load.wait_for_generation(first + 1)
        (killed,) = hosts.replicas("b")
        os.kill(killed, signal.SIGKILL)  # the only one of its host
        trainer.publish(first + 2)
        load.wait_for_generation(first + 2)
        hosts.wait_ready(first + 2, "abc")  # Ray has started another one
        trainer.publish(first + 3)
        load.wait_for_generation(first + 3)
        load.wait_for_more(20)
    hosts.wait_settled(first + 3, "abc")
    judge(load, trainer, failures=4)  # what was in flight on the one that was killed
    assert hosts.history("a") == hosts.history("b")


def test_metrics_status_and_the_other_protocols_are_there(hosts, trainer):
    client, generation = hosts.client(), hosts.view().generation
    metrics = client.request("GET", "/metrics").body.decode()
    assert f'envserve_committed_generation{{label="stable",model="affine"}} {float(generation)}' in metrics
    assert client.request("GET", "/readyz").status == client.request("GET", "/status.json").status == 200
    body = json.dumps({"inputs": [{"name": "inputs", "datatype": "FP32", "shape": [1, 4], "data": ROW}]}).encode()
    reply = client.request("POST", "/v2/models/affine/infer", body)
    assert (reply.status, reply.json["outputs"][0]["data"]) == (200, trainer.expected(trainer.sha256(generation)))
    stated = {"SERVE_MODEL": "affine:Affine", "SERVE_CHECKPOINTS": str(trainer.directory), "SERVE_NAME": "affine"}
    stated.update(SERVE_COMMIT="fleet", SERVE_FLEET=f"ray:{hosts.directory}/keeper", RAY_ADDRESS=hosts.address)
    argv = [sys.executable, "-m", "serve", "fleet", "status"]
    done = subprocess.run(argv, env={**os.environ, **stated}, capture_output=True, text=True, cwd=hosts.directory)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(done.stdout)["hosts"]) == ["a", "b", "c"]


def test_a_replica_of_other_settings_is_refused_with_the_reason(hosts):
    """New settings are a rolling update to Ray; whoever has them is not taken in, and the old ones serve on."""
    hosts.run(3, wait=False, warm_up_timeout_s=61, boot_wait_s=3)

    def find_reason() -> bool:
        return (
            "not taken this host in: settings: expected"
            in hosts.serve.status().applications["affine"].deployments["envserve"].message
        )

    wait_until(find_reason, "the reason", lambda: hosts.text)
    assert {hosts.client().predict([ROW]).status for _ in range(10)} == {200}
