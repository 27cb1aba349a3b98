"""What a real server with two workers tells Prometheus, its access log and its callers' traces."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import wait_until
from trainer import ROW

pytestmark = pytest.mark.needs_torch
TRACE = "0af7651916cd43dd8448eb211c80319c"


def scrape(server):
    reply = server.get("/metrics")
    assert reply.status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def total(found, name, **labels):
    return sum(
        value for (known, stated), value in found.items() if known == name and labels.items() <= dict(stated).items()
    )


@pytest.mark.both_workers
def test_swaps_requests_and_deaths_are_told(start_server, trainer):
    trainer.publish(1, version="v1")
    server = start_server()
    server.wait_live(1)
    for _ in range(40):
        client = server.client()  # a new connection each time, so that both workers answer
        client.predict([ROW])
        client.close()
    client = server.client()
    assert client.request("POST", "/predict", b"{").status == 400
    trainer.publish(2, version="v2")
    server.wait_live(2)
    bad = trainer.directory / "bad.safetensors"
    bad.write_bytes(b"\x10\0\0\0\0\0\0\0{damaged header..")
    bad.with_name(bad.name + ".done").touch()
    server.wait_for_events("refused", 1)

    def told():
        found = scrape(server)
        return found if total(found, "envserve_requests_total") == 41 else None

    found = wait_until(told, "41 requests in the metrics", lambda: server.get("/metrics").body.decode())
    assert (
        total(found, "envserve_requests_total", model="affine", label="stable", protocol="native", status="200") == 40
    )
    assert total(found, "envserve_requests_total", status="400") == 1
    assert total(found, "envserve_request_seconds_count", model="affine") == 41
    assert total(found, "envserve_requests_in_flight", model="affine") == 0
    assert total(found, "envserve_swaps_total", outcome="committed", reason="checkpoint") == 2
    assert total(found, "envserve_swaps_total", outcome="refused") == 1
    assert total(found, "envserve_committed_generation", model="affine") == 2
    assert total(found, "envserve_serving_generation") == 4  # 2 in each of two workers
    assert total(found, "envserve_generation_skew") == 0
    assert total(found, "envserve_model_info", version="v2") == 1
    assert total(found, "envserve_quarantined_checkpoints") == 1
    assert 0 < total(found, "envserve_unserved_seconds") < 1000  # the refused one is the newest
    assert total(found, "envserve_swap_phase_seconds_count", phase="load") >= 3
    assert total(found, "envserve_swap_phase_seconds_count", phase="copy") == 2  # once for the host
    pss, rss = (total(found, "envserve_memory_bytes", kind=kind) for kind in ("pss", "rss"))
    assert 1e7 < pss <= rss
    check_with_promtool(server.get("/metrics").body)
    die_and_count(server)


def die_and_count(server):
    """A worker that is killed takes its gauges with it, and leaves its counts."""
    dead = server.workers()[0]
    os.kill(dead, signal.SIGKILL)

    def replaced():
        found = scrape(server)
        workers = {dict(labels)["worker"] for name, labels in found if name == "envserve_serving_generation"}
        return found if len(workers) == 2 and str(dead) not in workers else None

    found = wait_until(replaced, "the worker's replacement in the metrics", lambda: server.text)
    assert total(found, "envserve_requests_total") == 41
    directories = [
        path for path in Path("/dev/shm").glob("envserve-metrics-*") if (path / f"counter_{dead}.db").exists()
    ]
    assert len(directories) == 1
    server.stop()
    assert not directories[0].exists()


def check_with_promtool(text):
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = subprocess.run([promtool, "check", "metrics"], input=text, stdout=-1, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout.decode()


def test_every_answer_can_be_found_in_the_log_and_in_its_trace(start_server, trainer):
    trainer.publish(1)
    server = start_server(access_log="on", workers=1)
    server.wait_live(1, workers=1)
    assert (server.get("/admin").status, server.get("/status.json").json["has_admin"]) == (404, False)
    caller = f"00-{TRACE}-b7ad6b7169203331-01"
    client = server.client()
    reply = client.request("POST", "/predict", json.dumps({"inputs": [ROW]}).encode(), {"traceparent": caller})
    assert reply.headers["traceparent"] == caller
    bogus = client.request("POST", "/predict", b"{", {"traceparent": "00-bogus"})
    assert (bogus.status, "traceparent" in bogus.headers) == (400, False)
    first, second = server.wait_for_events("request", 2, path="/predict")
    assert (first["status"], first["sha256"], first["trace_id"]) == (200, reply.sha256, TRACE)
    assert first["given_bytes"] == len(reply.body)
    assert 0 < first["seconds"] < 60
    assert (second["status"], "trace_id" in second) == (400, False)
