"""The content of the status page, in a form that programs can read too.

Made from the files of the stores, so every worker answers the same; pure: the caller reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serve.metrics.worker_metrics import Traffic
from serve.observability.spans import PHASES
from serve.operations.formatting import status_as_json
from serve.operations.operations import Status
from serve.operations.timeline import Past

_SHOWN = ("generation", "version", "sha256", "size_bytes", "name", "cause")
_HIDDEN = ("marker", "fingerprints", "judge")
MOST_SWAPS = 50


@dataclass(frozen=True)
class Look:
    """The state of one model at one moment."""

    full_name: str  # `NAME` for the default label, `NAME@LABEL` for the others
    name: str
    label: str
    status: Status
    history: Sequence[Past]
    events: Sequence[Mapping[str, Any]]
    verdict: str  # of the reloader about the newest checkpoint
    unserved_s: float  # the age of the newest published checkpoint while it is not served
    traffic: Traffic
    memory: Mapping[int, Mapping[str, int]]
    fleet: Mapping[str, Any] | None = None


def describe_model(look: Look) -> dict[str, object]:
    """Describe one model in the form that JSON can hold."""
    stated: dict[str, Any] = status_as_json(look.status)
    for worker in stated["workers"]:
        memory = look.memory.get(worker["pid"], {})
        worker.update({f"{kind}_bytes": size_bytes for kind, size_bytes in memory.items()})
    proposal, latency = look.status.proposal, sorted(look.traffic.latency.items())
    return {
        "full_name": look.full_name,
        "name": look.name,
        "label": look.label,
        "committed": _without(stated["committed"], "marker") if stated["committed"] else None,
        "proposal": _without(asdict(proposal.entry), "marker") if proposal else None,
        "pin": stated["pin"],
        "probation": stated["probation"],
        "drift": stated["drift"],
        "fleet": look.fleet,
        "is_short": stated["is_short"],
        "verdict": look.verdict,
        "unserved_s": round(look.unserved_s, 3),
        "workers": stated["workers"],
        "swaps": list_swaps(look.history, look.events)[:MOST_SWAPS],
        "changed_tensors": stated["changed_tensors"],
        "unserved": [
            {"name": note.name, "code": note.code, "since": note.since, "reason": note.reason, "hint": note.hint}
            for note in reversed(look.status.unserved)
        ],
        "quarantine": [_without(record, *_HIDDEN) for record in reversed(stated["quarantine"])],
        # JSON has no infinity; null stands for "however long".
        "traffic": {
            **asdict(look.traffic),
            "latency": [[bound_s if bound_s < math.inf else None, count] for bound_s, count in latency],
        },
    }


def list_swaps(history: Sequence[Past], events: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """List generations and refusals, the newest first; the seconds of a phase are those of the slowest worker."""
    swaps: list[dict[str, object]] = []
    for past in history[:MOST_SWAPS]:
        entry = past.entry
        reports = [
            event for event in events if event["event"] == "swapped" and event.get("generation") == entry.generation
        ]
        swaps.append(
            {
                "refused": False,
                "at": entry.committed,
                **{key: getattr(entry, key) for key in _SHOWN},
                "is_kept": past.is_kept,
                "outcome": past.outcome,
                "moments": [asdict(moment) for moment in past.moments],
                **{key: getattr(past, key) for key in ("answers", "spoiled", "p99_s")},
                "phases": {phase: _slowest(reports, f"{phase}_s") for phase in PHASES},
                "since_marker_s": _slowest(reports, "since_marker_s") if entry.cause == "checkpoint" else None,
            }
        )
    for event in events:
        if event["event"] == "refused":
            name = str(event.get("checkpoint", "")).rpartition("/")[2]
            facts = {key: event.get(key) for key in ("code", "reason", "version", "sha256", "will_retry")}
            swaps.append({"refused": True, "at": event["time"], "name": name, **facts})
    return sorted(swaps, key=lambda swap: str(swap["at"]), reverse=True)


def _slowest(events: Iterable[Mapping[str, Any]], key: str) -> float | None:
    return max((event[key] for event in events if event.get(key) is not None), default=None)


def _without(facts: Mapping[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in facts.items() if key not in keys}
