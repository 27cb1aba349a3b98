"""From events to counts: every change of state in the log is counted here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.events.event import Event
from serve.metrics.metric_families import FAULTS, PHASES, MetricFamilies, ModelLabel


def count_event(families: MetricFamilies, event: Event) -> None:
    """Count one event."""
    facts: Mapping[str, Any] = event.facts
    name, whose = event.name, ModelLabel(str(facts.get("model", "")), str(facts.get("label", "stable")))
    if name in ("swapped", "restored", "retired"):
        _count_phases(families, whose, facts)
    if name == "swapped" and facts.get("cause") == "checkpoint" and facts.get("since_marker_s") is not None:
        families.delay(whose, facts["since_marker_s"])
    if name == "refused":
        families.refuse(whose, facts["code"])
    if name == "batch_mismatch":
        families.mismatch(whose)
    if name in FAULTS:
        families.fault(whose, name)


def _count_phases(families: MetricFamilies, whose: ModelLabel, facts: Mapping[str, Any]) -> None:
    for phase in PHASES:
        seconds = facts.get(f"{phase}_s")
        # 0 is of a worker that found the bytes copied or proven; it had no such phase.
        if seconds:
            families.phase(whose, phase, seconds)
