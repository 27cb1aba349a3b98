"""What the status page computes rates and percentiles from: running totals, whose differences are the traffic between
two looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

STABLE = "stable"
_FIRST_ERROR = 500


class Sample(Protocol):
    """One sample of a metric."""

    @property
    def name(self) -> str:
        """Of the metric, and which part of it."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Their names and values."""

    @property
    def value(self) -> float:
        """What was counted or read."""


class Family(Protocol):
    """One metric with its samples."""

    @property
    def samples(self) -> Sequence[Sample]:
        """The samples."""


@dataclass
class Traffic:
    """The requests of one model since its server started.

    Args:
        requests: how many were answered.
        errors: how many of them with 500 or above.
        in_flight: how many are being answered.
        latency: how many were answered within how many seconds, each pair counting those of the pairs before.
    """

    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    latency: dict[float, int] = field(default_factory=dict)


def read_traffic(metrics: Iterable[Family]) -> dict[tuple[str, str], Traffic]:
    """Pick the traffic out of all metrics.

    Args:
        metrics: as `Families.collect` returns them.

    Returns:
        By model and label; the protocols are added up. Who is in flight counts as stable, because it is not known yet
        who will answer.
    """
    traffic: dict[tuple[str, str], Traffic] = {}
    for metric in metrics:
        for sample in metric.samples:
            if sample.labels.get("model"):
                key = sample.labels["model"], sample.labels.get("label") or STABLE
                _add(traffic.setdefault(key, Traffic()), sample)
    return traffic


def _add(traffic: Traffic, sample: Sample) -> None:
    count = int(sample.value)
    if sample.name == "envserve_requests_total":
        traffic.requests += count
        traffic.errors += count if int(sample.labels["status"]) >= _FIRST_ERROR else 0
    elif sample.name == "envserve_requests_in_flight":
        traffic.in_flight += count
    elif sample.name == "envserve_request_seconds_bucket":
        bound_s = float(sample.labels["le"])
        traffic.latency[bound_s] = traffic.latency.get(bound_s, 0) + count
