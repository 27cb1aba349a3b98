"""Running totals, from whose differences the status page computes rates and percentiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

STABLE = "stable"
_FIRST_FAILURE, _FIRST_ERROR = 400, 500


@dataclass
class Traffic:
    """The requests of one model since its server started."""

    requests: int = 0
    errors: int = 0  # how many of them with 500 or above
    in_flight: int = 0
    # How many were answered within how many seconds, each pair counting those of the pairs before.
    latency: dict[float, int] = field(default_factory=dict)


@dataclass
class Tally:
    """All requests for one model since its server started, whatever its labels; the times are sums."""

    requests: int = 0
    failures: int = 0  # how many of them with 400 or above
    seconds: float = 0.0
    queue_seconds: float = 0.0
    batches: int = 0  # how many runs several requests may have shared; 0 where nothing is batched
    rows: int = 0


def _of_models(metrics: Iterable[Metric]) -> Iterator[Any]:
    return (sample for metric in metrics for sample in metric.samples if sample.labels.get("model"))


def read_tallies(metrics: Iterable[Metric]) -> dict[str, Tally]:
    """Add up the requests for each model."""
    tallies: dict[str, Tally] = {}
    for sample in _of_models(metrics):
        tally, count = tallies.setdefault(sample.labels["model"], Tally()), int(sample.value)
        if sample.name == "envserve_requests_total":
            tally.requests += count
            tally.failures += count if int(sample.labels["status"]) >= _FIRST_FAILURE else 0
        elif sample.name == "envserve_request_seconds_sum":
            tally.seconds += sample.value
        elif sample.name == "envserve_queue_seconds_sum":
            tally.queue_seconds += sample.value
        elif sample.name == "envserve_batch_rows_count":
            tally.batches += count
        elif sample.name == "envserve_batch_rows_sum":
            tally.rows += count
    return tallies


def read_traffic(metrics: Iterable[Metric]) -> dict[tuple[str, str], Traffic]:
    """Add up the traffic by model and label, over all protocols.

    Requests in flight count as stable, because it is not known yet which label will answer.
    """
    found: dict[tuple[str, str], Traffic] = {}
    for sample in _of_models(metrics):
        key = sample.labels["model"], sample.labels.get("label") or STABLE
        traffic, count = found.setdefault(key, Traffic()), int(sample.value)
        if sample.name == "envserve_requests_total":
            traffic.requests += count
            traffic.errors += count if int(sample.labels["status"]) >= _FIRST_ERROR else 0
        elif sample.name == "envserve_requests_in_flight":
            traffic.in_flight += count
        elif sample.name == "envserve_request_seconds_bucket":
            bound_s = float(sample.labels["le"])
            traffic.latency[bound_s] = traffic.latency.get(bound_s, 0) + count
    return found
