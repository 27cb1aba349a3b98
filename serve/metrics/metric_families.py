"""Every metric by its name, and the door to prometheus_client.

Labels take few values: a sha256 is in none of them, because a series that has begun is kept for ever; the version is
only in what is read anew for each answer (`serve.observability.telemetry`). Every series that an alarm or a panel reads
begins with 0, in each worker: Prometheus sees no increase in a series whose first value is 1 ("Avoid missing metrics"
in its practices), and would miss a first fault."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.metrics_core import Metric

from serve.events.event_log import Event
from serve.metrics.multiprocess_directory import VARIABLE
from serve.metrics.request_counters import BATCH_BOUNDS, LATENCY_BOUNDS_S, WHY_REJECTED, Counts, Served, Spread

# The fixed words of labels. A reason is the code of a checkpoint's fault or the name of an exception.
PHASES = ("copy", "hash", "load", "warm_up", "commit", "free")
FAULTS = (
    *("fault", "hook_failed", "not_optimized", "not_restored", "policy_broken", "request_failed"),
    *("stopped", "store_damaged", "traces_failed", "weights_changed"),
)
OTHER = "other"
REASONS = (
    *("architecture", "canary", "content", "crash", "damaged", "deadline", "finite", "format", "golden", "hash"),
    *("interface", "marker", "missing", "model", "pickle", "policy", "probation", "shadow", "signature", "size"),
    *("state", "stateful", "validate", "warm-up", OTHER),
    *("CheckpointMovedError", "FileNotFoundError", "MemoryError", "MemoryShortError", "OSError", "PermissionError"),
    *("StoreFullError",),
)
PROTOCOLS = ("native", "v2", "tfserving", "torchserve")
_STATUSES = (200, 500, 503, 504)  # answered, and the kinds of failure that count as the server's
_PHASE_BOUNDS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


class ModelLabel(NamedTuple):
    """A model, and one of its labels: `stable`, `canary` or `shadow`."""

    model: str
    label: str


class Reading(NamedTuple):
    """One value that is read when Prometheus asks; the name of a counter ends in `_total`."""

    name: str
    labels: Mapping[str, str]
    value: float


SWAPS = "envserve_swaps_total"
# What is read and not counted: names, and what they mean. Of the swaps those that were refused are counted, the others
# are read.
READ = {
    SWAPS: "Swaps, by outcome and reason.",
    "envserve_env_info": "The environment that computes the answers; always 1.",
    "envserve_model_info": "The version that is committed; always 1.",
    "envserve_committed_generation": "The generation on which every request starts.",
    "envserve_serving_generation": "The generation that a worker answers with; 0 while it has none.",
    "envserve_generation_skew": "The committed generation less the oldest one that a worker answers with.",
    "envserve_workers": "The living workers.",
    "envserve_unserved_seconds": "The age of the newest published checkpoint while it is not served; 0 when it is.",
    "envserve_quarantined_checkpoints": "The checkpoints that are refused.",
    "envserve_changed_tensor": "A parameter or buffer that differs from the published one in some worker; always 1.",
    "envserve_fleet_out": "Whether the fleet has not taken this host in, or is out of its reach.",
    "envserve_pinned": "Whether automatic moves are stopped.",
    "envserve_probation_generation": "The generation that is on probation; 0 for none.",
    "envserve_probation_bad_answers": "Answers that the generation on probation spoils, and the one before does not.",
    "envserve_policy_breaches": "The rules of the machine's policy that this environment breaks.",
    "envserve_policy_report_age_seconds": "The age of the report of envtool policy, where there is one.",
    "envserve_drift_score": "How far what the committed generation sees is from what the one before saw.",
    "envserve_sketched_value": "Of a sample of numbers: mean, deviation, p01, p50 or p99.",
    "envserve_class_share": "The share of a class in a sample of the answers.",
    "envserve_memory_bytes": "The memory of a worker: resident (rss), and with shared pages divided (pss).",
}


class MetricFamilies:
    """The metrics of one worker."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        whose = "model", "label"

        def count(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"envserve_{name}", help, labels, registry=registry)

        def spread(name: str, help: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"envserve_{name}", help, labels, registry=registry, buckets=bounds)

        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(f"envserve_{name}", help, labels, registry=registry, multiprocess_mode="livesum")

        self._requests = count("requests", "Answered requests.", *whose, "protocol", "status")
        self._latency = spread("request_seconds", "From a request's arrival to its answer.", LATENCY_BOUNDS_S, *whose)
        wait = "How long requests waited before they were worked on."
        self._wait = spread("queue_seconds", wait, LATENCY_BOUNDS_S, "model")
        self._batch = spread("batch_rows", "Rows that were computed at once.", BATCH_BOUNDS, "model")
        rejected = "Requests that were turned away before they were worked on."
        self._rejected = count("rejected_requests", rejected, "model", "reason")
        self._in_flight = gauge("requests_in_flight", "Requests that are being answered.", "model")
        self._queued = gauge("requests_queued", "Requests that wait in the workers.")
        self._swaps = count("swaps", READ[SWAPS], *whose, "outcome", "reason")
        phases, delay = "How long the phases of a swap took a worker.", "From the writing of a marker to the swap."
        self._phase = spread("swap_phase_seconds", phases, _PHASE_BOUNDS_S, *whose, "phase")
        self._delay = spread("publish_to_live_seconds", delay, _PHASE_BOUNDS_S, *whose)
        compared = "Requests that the shadow was asked as well, by outcome."
        self._shadow = count("shadow_requests", compared, "model", "outcome")
        self._compared: dict[tuple[str, str], int] = {}
        self._mismatches = count("batch_mismatches", "Joined requests whose answer alone was another one.", *whose)
        self._faults = count("faults", "Faults that the log tells of.", *whose, "event")

    def add(self, counts: Counts) -> None:
        """Add the counts of requests."""
        for served, count in counts.requests.items():
            self._requests.labels(served.model, served.label, served.protocol, str(served.status)).inc(count)
        for (model, label), spread in counts.latencies.items():
            _add_spread(self._latency.labels(model, label), spread)
        for model, spread in counts.waits.items():
            _add_spread(self._wait.labels(model), spread)
        for model, spread in counts.batches.items():
            _add_spread(self._batch.labels(model), spread)
        for (model, reason), count in counts.rejected.items():
            self._rejected.labels(model, reason).inc(count)
        for model, count in counts.in_flight.items():
            self._in_flight.labels(model).set(count)
        self._queued.set(counts.queued)

    def compare(self, shadow: Mapping[str, Mapping[str, int]]) -> None:
        """Count comparisons with a shadow since the last call, out of all so far by model and outcome."""
        for model, outcomes in shadow.items():
            for outcome, count in outcomes.items():
                self._shadow.labels(model, outcome).inc(count - self._compared.get((model, outcome), 0))
                self._compared[model, outcome] = count

    def begin(self, models: Iterable[ModelLabel], shadow_outcomes: Mapping[str, Iterable[str]]) -> None:
        """Begin all series whose labels are known."""
        for whose in models:
            self.add(_no_requests(whose))
            for reason in REASONS:
                self._swaps.labels(*whose, "refused", reason)
            for event in FAULTS:
                self._faults.labels(*whose, event)
            for phase in PHASES:
                self._phase.labels(*whose, phase)
            self._delay.labels(*whose)
            self._mismatches.labels(*whose)
        self.add(Counts(rejected={("", reason): 0 for reason in WHY_REJECTED[2:]}))  # before a model is known
        self.compare({model: dict.fromkeys(outcomes, 0) for model, outcomes in shadow_outcomes.items()})

    def count(self, event: Event) -> None:
        """Count a change of state, here and nowhere else; a subscriber of `EventLog`."""
        facts: Mapping[str, Any] = event.facts
        name, whose = event.name, ModelLabel(str(facts.get("model", "")), str(facts.get("label", "stable")))
        if name in ("swapped", "restored", "retired"):
            # 0 is of a worker that found the bytes copied or proven; it had no such phase.
            for phase in PHASES:
                if facts.get(f"{phase}_s"):
                    self._phase.labels(*whose, phase).observe(facts[f"{phase}_s"])
        if name == "swapped" and facts.get("cause") == "checkpoint" and facts.get("since_marker_s") is not None:
            self._delay.labels(*whose).observe(facts["since_marker_s"])
        if name == "refused":
            self._swaps.labels(*whose, "refused", facts["code"] if facts["code"] in REASONS else OTHER).inc()
        if name == "batch_mismatch":
            self._mismatches.labels(*whose).inc()
        if name in FAULTS:
            self._faults.labels(*whose, name).inc()

    def collect(self, readings: Iterable[Reading]) -> list[Metric]:
        """Return all metrics of this server, those of the other workers among them."""
        registry = self._registry
        if os.environ.get(VARIABLE):
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        metrics = {metric.name: metric for metric in registry.collect()}
        for name, labels, value in readings:
            family, kind = (name[: -len("_total")], "counter") if name.endswith("_total") else (name, "gauge")
            if family not in metrics:
                metrics[family] = Metric(family, READ[name], kind)
            metrics[family].add_sample(name, dict(labels), value)
        return sorted(metrics.values(), key=lambda metric: metric.name)


def write(metrics: Iterable[Metric]) -> bytes:
    """Write the result of `collect` in Prometheus's text format."""
    registry: Any = SimpleNamespace(collect=lambda: metrics)
    return prometheus_client.generate_latest(registry)


def forget(pid: int) -> None:
    """Drop the gauges of a worker that has ended; what it counted stays."""
    if os.environ.get(VARIABLE):
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _add_spread(histogram: Any, spread: Spread) -> None:
    # prometheus_client has no call that adds many values at once; these two are what its own `observe` uses.
    for bucket, count in zip(histogram._buckets, spread.counts):
        if count:
            bucket.inc(count)
    histogram._sum.inc(spread.total)


def _no_requests(whose: ModelLabel) -> Counts:
    model = whose.model
    labels = ((whose.label, _STATUSES), ("", _STATUSES[1:]))  # a request that reached no version has no label
    served = [(label, protocol, code) for label, codes in labels for protocol in PROTOCOLS for code in codes]
    return Counts(
        requests={Served(model, *one): 0 for one in served},
        latencies={(model, label): Spread.over(LATENCY_BOUNDS_S) for label, _ in labels},
        waits={model: Spread.over(LATENCY_BOUNDS_S)},
        batches={model: Spread.over(tuple(map(float, BATCH_BOUNDS)))},
        rejected={(model, reason): 0 for reason in WHY_REJECTED},
    )
