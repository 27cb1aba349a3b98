"""The first values of every series that an alarm or a panel reads: 0, in each worker, before anything happens.

Prometheus sees no increase in a series whose first value is 1 ("Avoid missing metrics" in its practices), so a first
fault would be missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from serve.http.admission import DEADLINE, QUEUE_FULL, SLOW_CLIENT, TOO_LARGE
from serve.metrics.metric_families import FAULTS, REASONS, MetricFamilies, ModelLabel
from serve.metrics.request_counters import BATCH_BOUNDS, LATENCY_BOUNDS_S, Counts, Served, Spread

PROTOCOLS = ("native", "v2", "tfserving", "torchserve")
# Answered, and the kinds of failure that count as the server's.
_STATUSES = (200, 500, 503, 504)


def begin(families: MetricFamilies, models: Iterable[ModelLabel], shadow_outcomes: Mapping[str, Iterable[str]]) -> None:
    """Begin all series whose labels are known."""
    for whose in models:
        families.add(_no_requests(whose))
        for reason in REASONS:
            families.refuse(whose, reason, 0)
        for event in FAULTS:
            families.fault(whose, event, 0)
        families.begin_swaps(whose)
        families.mismatch(whose, 0)
    families.add(Counts(rejected={("", SLOW_CLIENT): 0, ("", TOO_LARGE): 0}))
    families.compare({model: dict.fromkeys(outcomes, 0) for model, outcomes in shadow_outcomes.items()})


def _no_requests(whose: ModelLabel) -> Counts:
    model = whose.model
    # A request that reached no version has no label.
    labels = ((whose.label, _STATUSES), ("", _STATUSES[1:]))
    return Counts(
        requests={
            Served(model, label, protocol, code): 0
            for label, codes in labels
            for protocol in PROTOCOLS
            for code in codes
        },
        latencies={(model, label): Spread.over(LATENCY_BOUNDS_S) for label, _ in labels},
        waits={model: Spread.over(LATENCY_BOUNDS_S)},
        batches={model: Spread.over(tuple(map(float, BATCH_BOUNDS)))},
        rejected={(model, reason): 0 for reason in (QUEUE_FULL, DEADLINE, TOO_LARGE, SLOW_CLIENT)},
    )
