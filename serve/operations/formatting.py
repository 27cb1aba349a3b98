"""Formats of the operations' answers: text for people, JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from serve.checkpoint.manifest import read_object
from serve.errors import CheckpointError

if TYPE_CHECKING:
    from serve.operations.operations import Occupant, OnProbation, Past, Status
    from serve.operations.verification import Verdict
    from serve.swap.changed_weights import Checked

_SHORT_SHA256 = 12


def status_as_json(status: Status) -> dict[str, object]:
    """Return a status in the form that JSON can hold."""
    facts = asdict(status)
    for worker, row in zip(facts["workers"], status.workers):
        worker["state"] = _state_of(status, row.preparing, row.prepared)
    return facts


def status_as_text(status: Status) -> str:
    """Write a status as a table."""
    lines = ["committed   " + _describe_committed(status)]
    if status.pin is not None:
        reason = f": {status.pin.reason}" if status.pin.reason else ""
        lines.append(f"pinned      to version {status.pin.version} since {status.pin.pinned[:19]}{reason}")
    if status.proposal is not None:
        entry = status.proposal.entry
        lines.append(f"proposed    generation {entry.generation}, version {entry.version}, {entry.name}")
    if status.probation is not None:
        lines.append("probation   " + _describe_probation(status.probation))
    rows = [
        (str(row.pid), str(row.live or "-"), _state_of(status, row.preparing, row.prepared)) for row in status.workers
    ]
    lines.append("workers     " + ("none alive" if not rows else str(len(rows))))
    if rows:
        lines += _indent(_tabulate(("PID", "GENERATION", "STATE"), rows))
    if status.changed_tensors:
        lines.append("changed     " + ", ".join(status.changed_tensors))
    if status.unserved:
        lines.append("not served")
        noted = [(note.name, note.code, note.since[:19], note.reason) for note in reversed(status.unserved)]
        lines += _indent(_tabulate(("CHECKPOINT", "CODE", "SINCE", "REASON"), noted))
        lines += _indent([f"hint: {hint}" for hint in sorted({note.hint for note in status.unserved})])
    if status.quarantine:
        lines.append("quarantine")
        refused = [
            (record.name, record.code, "later" if record.retry_at_s else "no", record.since[:19], record.reason)
            for record in reversed(status.quarantine)
        ]
        lines += _indent(_tabulate(("CHECKPOINT", "CODE", "RETRY", "SINCE", "REASON"), refused))
    return "\n".join(lines)


def history_as_json(history: Sequence[Past]) -> list[dict[str, object]]:
    """Return a history in the form that JSON can hold.

    Args:
        history: the newest generation first.
    """
    rows = [{**asdict(past.entry), "is_kept": past.is_kept, "outcome": past.outcome} for past in history]
    return [{**{key: row[key] for key in row if key != "marker"}, **_stated(str(row["marker"]))} for row in rows]


def _stated(marker: str) -> dict[str, object]:
    """Where a generation comes from, as its marker states it."""
    try:
        stated = read_object(marker.encode())
    except CheckpointError:  # that of an earlier version of ours
        return {}
    return {key: stated[key] for key in ("created", "metrics", "mlflow") if key in stated}


def history_as_text(history: Sequence[Past]) -> str:
    """Write a history as a table.

    Args:
        history: the newest generation first.
    """
    if not history:
        return "nothing was committed yet"
    rows = [
        (
            str(past.entry.generation),
            past.entry.version,
            past.entry.sha256[:_SHORT_SHA256],
            past.entry.cause,
            past.entry.committed[:19],
            "yes" if past.is_kept else "no",
            past.entry.name,
            past.outcome,
        )
        for past in history
    ]
    head = ("GENERATION", "VERSION", "SHA256", "CAUSE", "COMMITTED", "KEPT", "CHECKPOINT", "OUTCOME")
    return "\n".join(_tabulate(head, rows))


def store_as_text(occupants: Sequence[Occupant], free_bytes: int) -> str:
    """Write what occupies a store."""
    rows = [(occupant.name[:_SHORT_SHA256], f"{occupant.size_bytes:,}", occupant.why) for occupant in occupants]
    total = sum(occupant.size_bytes for occupant in occupants)
    lines = _tabulate(("SHA256", "BYTES", "WHY"), rows) if rows else []
    return "\n".join([*lines, f"{len(rows)} checkpoints, {total:,} bytes; {free_bytes:,} bytes are free"])


def checked_as_text(found: Sequence[Checked]) -> str:
    """Write what workers found in memory, a line for row."""
    return "\n".join(
        f"{'BAD' if row.differing or row.problem else 'ok '} worker {row.worker}  generation {row.generation}  "
        f"version {row.version}  "
        + (row.problem or f"{row.tensors} tensors" + "".join(f"\n    {name} differs" for name in row.differing))
        for row in found
    )


def verdicts_as_json(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """Return what `verify` found in the form that JSON can hold."""
    return [{**asdict(verdict), "path": str(verdict.path)} for verdict in verdicts]


def verdicts_as_text(verdicts: Sequence[Verdict]) -> str:
    """Write what `verify` found."""
    if not verdicts:
        return "no checkpoint with a marker"
    lines = [
        f"{'ok ' if verdict.problem is None else 'BAD'} {verdict.path}" + _describe_content(verdict)
        for verdict in verdicts
    ]
    bad = sum(verdict.problem is not None for verdict in verdicts)
    return "\n".join([*lines, f"{len(verdicts)} checkpoints, {bad} bad"])


def _describe_content(verdict: Verdict) -> str:
    if verdict.problem is not None:
        return f": {verdict.problem}"
    return f"  sha256 {(verdict.sha256 or '')[:_SHORT_SHA256]}" + (
        f"  version {verdict.version}" if verdict.version else ""
    )


def _describe_committed(status: Status) -> str:
    entry = status.committed
    if entry is None:
        return "nothing yet"
    sha256 = entry.sha256[:_SHORT_SHA256]
    return f"generation {entry.generation}, version {entry.version}, sha256 {sha256}, since {entry.committed[:19]}"


def _describe_probation(probation: OnProbation) -> str:
    bad = ", ".join(f"{count} {signal}" for signal, count in probation.bad.items() if count) or "nothing against it"
    return (
        f"generation {probation.generation} for {probation.seconds:g} s, {probation.answers:,} answers, {bad}; "
        f"generation {probation.way_back} stays loaded ({probation.kept_bytes:,} bytes)"
    )


def _state_of(status: Status, preparing: int, prepared: int) -> str:
    number = status.proposal.number if status.proposal else 0
    if number and prepared == number:
        return "prepared"
    return "preparing" if number and preparing == number else "serving"


def _tabulate(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]]


def _indent(lines: Sequence[str]) -> list[str]:
    return ["  " + line for line in lines]
