"""One worker's share of the metrics: counters of requests, and a thread that hands the counts over once a second.

Also running totals of all workers, from whose differences the status page computes rates and percentiles."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable

from serve.metrics.metric_families import MetricFamilies, ModelLabel, Reading, write
from serve.metrics.request_counters import RequestCounters

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

STABLE = "stable"
_FIRST_FAILURE, _FIRST_ERROR = 400, 500


@dataclass
class Traffic:
    """The requests of one model since its server started; the times are sums."""

    requests: int = 0
    errors: int = 0  # how many of them with 500 or above
    in_flight: int = 0
    # How many were answered within how many seconds, each pair counting those of the pairs before.
    latency: dict[float, int] = field(default_factory=dict)
    failures: int = 0  # with 400 or above
    seconds: float = 0.0
    queue_seconds: float = 0.0
    batches: int = 0  # how many runs several requests may have shared; 0 where nothing is batched
    rows: int = 0


_ADDED = {
    "envserve_requests_in_flight": "in_flight", "envserve_request_seconds_sum": "seconds",
    "envserve_queue_seconds_sum": "queue_seconds", "envserve_batch_rows_count": "batches",
    "envserve_batch_rows_sum": "rows",
}  # fmt: skip


def read_traffic(metrics: Iterable[Metric]) -> dict[tuple[str, str], Traffic]:
    """Add up the traffic by model and label, over all protocols; what has no label counts for the stable one."""
    found: dict[tuple[str, str], Traffic] = {}
    for sample in (sample for metric in metrics for sample in metric.samples if sample.labels.get("model")):
        key = sample.labels["model"], sample.labels.get("label") or STABLE
        traffic, count = found.setdefault(key, Traffic()), int(sample.value)
        if sample.name == "envserve_requests_total":
            status = int(sample.labels["status"])
            traffic.requests += count
            traffic.failures += count if status >= _FIRST_FAILURE else 0
            traffic.errors += count if status >= _FIRST_ERROR else 0
        elif sample.name == "envserve_request_seconds_bucket":
            bound_s = float(sample.labels["le"])
            traffic.latency[bound_s] = traffic.latency.get(bound_s, 0) + count
        elif sample.name in _ADDED:
            name = _ADDED[sample.name]
            setattr(traffic, name, getattr(traffic, name) + sample.value)
    return found


_HAND_OVER_S = 1.0


class WorkerMetrics:
    """Counts what a worker does, and reports what all did; `read_shadow` gives comparisons by model and outcome."""

    def __init__(self, read_shadow: Callable[[], Mapping[str, Mapping[str, int]]] = dict) -> None:
        self.request_counters = RequestCounters()
        self._read_queued: Callable[[], int] = lambda: 0
        self._read_shadow = read_shadow
        self.families = MetricFamilies()
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: tuple[int, threading.Thread] | None = None

    def start(self, read_queued: Callable[[], int]) -> None:
        """Begin to hand over, once in each process; threads do not survive a fork."""
        self._read_queued = read_queued
        if self._thread is None or self._thread[0] != os.getpid():
            thread = threading.Thread(target=self._run, name="metrics", daemon=True)
            self._thread = os.getpid(), thread
            thread.start()

    def begin(self, models: Iterable[ModelLabel], shadow_outcomes: Mapping[str, Iterable[str]]) -> None:
        """Begin the series whose labels are known, in the worker; `serve.metrics.metric_families` states why."""
        with self._lock:
            self.families.begin(models, shadow_outcomes)

    def stop(self) -> None:
        """Hand over what is left; the worker ends."""
        self._is_stopping.set()
        self.hand_over()

    def hand_over(self) -> None:
        """Put what was counted where Prometheus finds it."""
        with self._lock:
            self.request_counters.queue(self._read_queued())
            self.families.add(self.request_counters.take())
            self.families.compare(self._read_shadow())

    def write(self, readings: Iterable[Reading]) -> bytes:
        """Write all metrics of the server in Prometheus's text format."""
        self.hand_over()
        return write(self.families.collect(readings))

    def traffic(self) -> dict[tuple[str, str], Traffic]:
        """Tell how many requests were answered so far, and how fast, by model and label."""
        self.hand_over()
        return read_traffic(self.families.collect(()))

    def _run(self) -> None:
        while not self._is_stopping.wait(_HAND_OVER_S):
            self.hand_over()
