"""Counting, adding up over processes, and the text that Prometheus reads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.events.event_log import Event
from serve.metrics import multiprocess_directory
from serve.metrics.metric_families import READ, Reading
from serve.metrics.request_counters import LATENCY_BOUNDS_S, RequestCounters, Served
from serve.metrics.worker_metrics import WorkerMetrics
from serve.observability.telemetry import memory_of

ROOT = Path(__file__).parents[3]
OK = Served("affine", "stable", "predict", 200)


def samples(text: bytes) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(found, name, **labels):
    return found[name, frozenset(labels.items())]


def test_requests_are_counted_with_their_latency():
    worker_metrics = WorkerMetrics()
    for seconds in (0.0004, 0.05, 0.05, 40.0):
        worker_metrics.request_counters.begin("affine")
        worker_metrics.request_counters.end(OK, seconds)
    worker_metrics.request_counters.begin("affine")
    found = samples(worker_metrics.write(()))
    assert (
        value(found, "envserve_requests_total", model="affine", label="stable", protocol="predict", status="200") == 4
    )
    of_model = {"model": "affine", "label": "stable"}
    assert value(found, "envserve_request_seconds_bucket", **of_model, le="0.0005") == 1
    assert value(found, "envserve_request_seconds_bucket", **of_model, le="0.06") == 3
    assert value(found, "envserve_request_seconds_bucket", **of_model, le="30.0") == 3
    assert value(found, "envserve_request_seconds_count", **of_model) == 4
    assert value(found, "envserve_request_seconds_sum", **of_model) == pytest.approx(40.1004)
    assert value(found, "envserve_requests_in_flight", model="affine") == 1


def test_waits_batches_and_rejections():
    worker_metrics = WorkerMetrics()
    worker_metrics.start(lambda: 3)
    worker_metrics.request_counters.begin("affine", 0.2)
    worker_metrics.request_counters.batch("affine", 8)
    worker_metrics.request_counters.batch("affine", 1000)
    worker_metrics.request_counters.reject("affine", "queue_full")
    found = samples(worker_metrics.write(()))
    assert value(found, "envserve_queue_seconds_count", model="affine") == 1
    assert value(found, "envserve_batch_rows_bucket", model="affine", le="8.0") == 1
    assert value(found, "envserve_batch_rows_sum", model="affine") == 1008
    assert value(found, "envserve_rejected_requests_total", model="affine", reason="queue_full") == 1
    assert value(found, "envserve_requests_queued") == 3


def test_nothing_is_counted_twice_or_lost_under_threads():
    worker_metrics, each = WorkerMetrics(), 2000

    def count():
        for _ in range(each):
            worker_metrics.request_counters.begin("affine")
            worker_metrics.request_counters.end(OK, 0.001)
            if _ % 500 == 0:
                worker_metrics.hand_over()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    traffic = worker_metrics.traffic()["affine", "stable"]
    assert (traffic.requests, traffic.in_flight, traffic.errors) == (4 * each, 0, 0)
    assert traffic.latency[float("inf")] == 4 * each
    assert len(traffic.latency) == len(LATENCY_BOUNDS_S) + 1


def test_taken_counts_are_not_changed_afterwards():
    observer = RequestCounters()
    observer.begin("affine")
    observer.end(OK, 0.1)
    taken = observer.take()
    observer.begin("affine")
    observer.end(OK, 0.1)
    assert taken.requests == {OK: 1}
    assert observer.take().requests == {OK: 1}
    assert observer.take().requests == {}


def test_events_become_counts():
    worker_metrics = WorkerMetrics()
    swapped = {
        "cause": "checkpoint",
        "since_marker_s": 1.5,
        "copy_s": 0.2,
        "hash_s": 0.0,
        "load_s": 0.1,
        "commit_s": 0.01,
    }
    for event, facts in (
        ("swapped", swapped),
        ("swapped", {**swapped, "cause": "rollback"}),
        ("retired", {"free_s": 0.02}),
        ("refused", {"code": "hash", "reason": "bad"}),
        ("fault", {"reason": "the disk"}),
        ("watching", {"how": "poll"}),
    ):
        worker_metrics.families.count(Event(event, {"model": "affine", **facts}))
    found = samples(
        worker_metrics.write(
            [Reading("envserve_swaps_total", {"model": "affine", "outcome": "committed", "reason": "rollback"}, 7)]
        )
    )
    assert value(found, "envserve_swap_phase_seconds_count", model="affine", phase="copy", label="stable") == 2
    assert value(
        found, "envserve_swap_phase_seconds_sum", model="affine", phase="free", label="stable"
    ) == pytest.approx(0.02)
    assert not [key for key in found if ("phase", "hash") in key[1]]
    assert value(found, "envserve_publish_to_live_seconds_count", model="affine", label="stable") == 1
    assert value(found, "envserve_swaps_total", model="affine", outcome="refused", reason="hash", label="stable") == 1
    assert value(found, "envserve_swaps_total", model="affine", outcome="committed", reason="rollback") == 7
    assert value(found, "envserve_faults_total", model="affine", event="fault", label="stable") == 1


def test_the_text_keeps_prometheus_rules():
    worker_metrics = WorkerMetrics()
    worker_metrics.request_counters.begin("affine")
    worker_metrics.request_counters.end(OK, 0.1)
    worker_metrics.families.count(Event("refused", {"code": "hash", "model": "affine"}))
    text = worker_metrics.write([Reading(name, {"model": 'a"\\\n'}, 1) for name in READ]).decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.documentation, family.name
        assert family.name.startswith("envserve_"), family.name
        assert family.type in ("counter", "gauge", "histogram")
        assert not family.name.endswith(("_total", "_count", "_sum", "_milliseconds", "_ms", "_kb"))
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert "sha256" not in sample.labels


SCRIPT = """
import os, signal, sys
from serve.metrics.worker_metrics import WorkerMetrics
from serve.metrics.request_counters import Served
meter = WorkerMetrics()
for _ in range(int(sys.argv[1])):
    meter.request_counters.begin("affine")
    meter.request_counters.end(Served("affine", "stable", "predict", 200), 0.01)
meter.request_counters.begin("affine")
meter.hand_over()
print(meter.write(()).decode() if sys.argv[2] == "write" else os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run_worker(count, what):
    command = [sys.executable, "-c", SCRIPT, str(count), what]
    return subprocess.run(command, cwd=ROOT, stdout=-1, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout


def test_workers_are_added_up_and_the_dead_keep_their_counts(tmp_path, monkeypatch):
    monkeypatch.delenv(multiprocess_directory.VARIABLE, raising=False)
    environ = {}
    made = multiprocess_directory.make(environ, tmp_path)
    monkeypatch.setenv(multiprocess_directory.VARIABLE, environ[multiprocess_directory.VARIABLE])
    pid = run_worker(5, "quietly").strip()
    before = samples(run_worker(2, "write").encode())
    ok = {**OK._asdict(), "status": "200"}
    assert value(before, "envserve_requests_total", **ok) == 7
    assert value(before, "envserve_requests_in_flight", model="affine") == 2
    script = f"from serve.metrics.metric_families import forget; forget({pid})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    after = samples(run_worker(3, "write").encode())
    assert value(after, "envserve_requests_total", **ok) == 10
    assert value(after, "envserve_requests_in_flight", model="affine") == 2  # of the two that nobody has reaped
    assert made.is_dir()
    multiprocess_directory.remove(environ)
    assert not made.exists()


def test_what_a_killed_server_left_is_removed(tmp_path):
    left, fresh = tmp_path / "envserve-metrics-left", tmp_path / "envserve-metrics-fresh"
    for one in (left, fresh):
        one.mkdir()
        (one / "counter_1.db").touch()
    os.utime(left, (0, 0))
    mine = multiprocess_directory.make({}, tmp_path)
    os.utime(mine, (0, 0))
    again = multiprocess_directory.make({}, tmp_path)
    assert not left.exists()
    assert {fresh, mine, again} <= set(tmp_path.iterdir())


def test_memory_is_what_the_kernel_says():
    used = memory_of(os.getpid())
    assert 0 < used["pss"] <= used["rss"]
    assert memory_of(2**22 + 1) == {}
