"""From events to counts: every change of state that the log tells of is counted here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.events.event import Event
from serve.metrics.metric_families import FAULTS, PHASES, MetricFamilies, ModelLabel


def count_event(families: MetricFamilies, happened: Event) -> None:
    """Count one event."""
    said: Mapping[str, Any] = happened.facts
    event, whose = happened.name, ModelLabel(str(said.get("model", "")), str(said.get("label", "stable")))
    if event in ("swapped", "restored", "retired"):
        _count_phases(families, whose, said)
    if event == "swapped" and said.get("cause") == "checkpoint" and said.get("since_marker_s") is not None:
        families.delay(whose, said["since_marker_s"])
    if event == "refused":
        families.refuse(whose, said["code"])
    if event == "batch_mismatch":
        families.mismatch(whose)
    if event in FAULTS:
        families.fault(whose, event)


def _count_phases(families: MetricFamilies, whose: ModelLabel, said: Mapping[str, Any]) -> None:
    for phase in PHASES:
        seconds = said.get(f"{phase}_s")
        # A worker that found the bytes copied or proven says 0; it had no such phase.
        if seconds:
            families.phase(whose, phase, seconds)
