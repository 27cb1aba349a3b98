"""The content of the status page, in a form that programs can read too.

Made from the files of the stores, so every worker answers the same; pure: the caller reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from serve.operations.formatting import status_as_json

if TYPE_CHECKING:
    from serve.metrics.totals import Traffic
    from serve.operations.operations import Past, Status

_PHASES = ("copy", "hash", "load", "warm_up", "commit")
MOST_SWAPS = 50


@dataclass(frozen=True)
class Look:
    """The state of one model at one moment.

    Args:
        full_name: `NAME` for the default label, `NAME@LABEL` for the others.
        verdict: of the reloader about the newest checkpoint.
        unserved_s: the age of the newest published checkpoint while it is not served.
    """

    full_name: str
    name: str
    label: str
    status: Status
    history: Sequence[Past]
    events: Sequence[Mapping[str, Any]]
    verdict: str
    unserved_s: float
    traffic: Traffic
    memory: Mapping[int, Mapping[str, int]]


def describe_model(look: Look) -> dict[str, object]:
    """Describe one model in the form that JSON can hold."""
    stated: dict[str, Any] = status_as_json(look.status)
    for worker in stated["workers"]:
        memory = look.memory.get(worker["pid"], {})
        worker.update({f"{kind}_bytes": size_bytes for kind, size_bytes in memory.items()})
    proposal = look.status.proposal
    return {
        "full_name": look.full_name,
        "name": look.name,
        "label": look.label,
        "committed": _without_marker(stated["committed"]),
        "proposal": _without_marker(asdict(proposal.entry)) if proposal else None,
        "pin": stated["pin"],
        "probation": stated["probation"],
        "verdict": look.verdict,
        "unserved_s": round(look.unserved_s, 3),
        "workers": stated["workers"],
        "swaps": list_swaps(look.history, look.events)[:MOST_SWAPS],
        "changed_tensors": stated["changed_tensors"],
        "unserved": [
            {"name": note.name, "code": note.code, "since": note.since, "reason": note.reason, "hint": note.hint}
            for note in reversed(look.status.unserved)
        ],
        "quarantine": [_describe_record(record) for record in reversed(stated["quarantine"])],
        "traffic": _describe_traffic(look.traffic),
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
                **{
                    key: getattr(entry, key)
                    for key in ("generation", "version", "sha256", "size_bytes", "name", "cause")
                },
                "is_kept": past.is_kept,
                "outcome": past.outcome,
                "phases": {phase: _slowest(reports, f"{phase}_s") for phase in _PHASES},
                "since_marker_s": _slowest(reports, "since_marker_s") if entry.cause == "checkpoint" else None,
            }
        )
    swaps += [_describe_refusal(event) for event in events if event["event"] == "refused"]
    return sorted(swaps, key=lambda swap: str(swap["at"]), reverse=True)


def _slowest(events: Iterable[Mapping[str, Any]], key: str) -> float | None:
    return max((event[key] for event in events if event.get(key) is not None), default=None)


def _describe_refusal(event: Mapping[str, Any]) -> dict[str, object]:
    name = str(event.get("checkpoint", "")).rpartition("/")[2]
    facts = {key: event.get(key) for key in ("code", "reason", "version", "sha256", "will_retry")}
    return {"refused": True, "at": event["time"], "name": name, **facts}


def _describe_record(record: dict[str, Any]) -> dict[str, object]:
    return {key: value for key, value in record.items() if key not in ("marker", "fingerprints", "judge")}


def _describe_traffic(traffic: Traffic) -> dict[str, object]:
    # JSON has no infinity; null stands for "however long".
    pairs = sorted(traffic.latency.items())
    latency = [[None if bound_s == float("inf") else bound_s, count] for bound_s, count in pairs]
    return {**asdict(traffic), "latency": latency}


def _without_marker(entry: Mapping[str, object] | None) -> dict[str, object] | None:
    return None if entry is None else {key: value for key, value in entry.items() if key != "marker"}
