"""Formats of the operations' answers: text for people, JSON for programs. Pure."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from serve.checkpoint.manifest import read_object
from serve.errors import CheckpointError

if TYPE_CHECKING:
    from serve.operations.operations import Occupant, Status, Verdict
    from serve.operations.timeline import Comparison, Past
    from serve.rollout.drift import Drift
    from serve.swap.changed_weights import Checked

_SHORT_SHA256 = 12
Look = tuple[float, "Sequence[Past]"]  # when, by the monotonic clock, and the newest generations


def status_as_json(status: Status) -> dict[str, Any]:
    """Return a status in the form that JSON can hold."""
    facts = asdict(status)
    for worker, row in zip(facts["workers"], status.workers):
        worker["state"] = _state_of(status, row.preparing, row.prepared)
    return facts


def status_as_text(status: Status) -> str:
    """Write a status as a table."""
    entry, about = status.committed, "nothing yet"
    if entry is not None:
        about = f"generation {entry.generation}, version {entry.version}, sha256 {entry.sha256[:_SHORT_SHA256]}"
        about += f", since {entry.committed[:19]}"
    lines = [f"committed   {about}"]
    if status.pin is not None:
        reason = f": {status.pin.reason}" if status.pin.reason else ""
        lines.append(f"pinned      to version {status.pin.version} since {status.pin.pinned[:19]}{reason}")
    if status.proposal is not None:
        entry = status.proposal.entry
        lines.append(f"proposed    generation {entry.generation}, version {entry.version}, {entry.name}")
    if status.probation is not None:
        found = status.probation
        bad = ", ".join(f"{count} {signal}" for signal, count in found.bad.items() if count) or "nothing against it"
        lines.append(
            f"probation   generation {found.generation} for {found.seconds:g} s, {found.answers:,} answers, {bad}; "
            f"generation {found.way_back} stays loaded ({found.kept_bytes:,} bytes)"
        )
    if status.is_short:
        lines.append("probation   none: a third model would not fit into memory")
    if status.drift is not None:
        lines += _drift_as_text(status.drift)
    workers = status.workers
    rows = [(str(one.pid), str(one.live or "-"), _state_of(status, one.preparing, one.prepared)) for one in workers]
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
        again = {True: "later", False: "no"}
        records = reversed(status.quarantine)
        refused = [(one.name, one.code, again[bool(one.retry_at_s)], one.since[:19], one.reason) for one in records]
        lines += _indent(_tabulate(("CHECKPOINT", "CODE", "RETRY", "SINCE", "REASON"), refused))
    return "\n".join(lines)


def screen(text: str, now: Look, before: Look, size: os.terminal_size, today: str) -> str:
    """Write a status over the last one on a terminal, with the newest generations and the rates since the last look;
    `today` is the date in UTC."""
    answers, seconds = {past.entry.generation: past.answers for past in before[1]}, now[0] - before[0]
    rows = []
    for past in now[1]:
        entry, more = past.entry, past.answers - answers.get(past.entry.generation, 0)
        # Counts begin anew with the workers, and those of the last generation are gathered late.
        rate = f"{more / seconds:,.1f}" if seconds and more >= 0 else "-"
        p99 = f"{1000 * past.p99_s:.3g} ms" if past.answers else "-"
        since = entry.committed[11:19] if entry.committed[:10] == today else entry.committed[:10]
        made = str(entry.generation), entry.version, since, f"{past.answers:,}", rate, p99
        rows.append((*made, f"{past.spoiled:,}", past.outcome or entry.cause))
    head = ("GENERATION", "VERSION", "SINCE", "ANSWERS", "PER SECOND", "P99 OF RUNS", "SPOILED", "OUTCOME")
    lines = [*(_tabulate(head, rows) if rows else []), "", *text.split("\n")][: size.lines - 1]
    # Not to the last column: there ESC[K erases what was just written.
    shown = [line if len(line) < size.columns else line[: size.columns - 2] + "…" for line in lines]
    return "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J\x1b[A"


def history_as_json(history: Sequence[Past]) -> list[dict[str, object]]:
    """Return a history in the form that JSON can hold."""
    rows = []
    for past in history:
        found = asdict(past)
        row = {**found.pop("entry"), **found, "outcome": past.outcome}
        with contextlib.suppress(CheckpointError):  # the marker may be that of an earlier version of ours
            stated = read_object(row.pop("marker").encode())
            row.update({key: stated[key] for key in ("created", "metrics", "mlflow") if key in stated})
        rows.append(row)
    return rows


def history_as_text(history: Sequence[Past], has_steps: bool = False) -> str:
    """Write a history as a table, or with the steps of each generation."""
    if not history:
        return "nothing was committed yet"
    if has_steps:
        return "\n".join(line for past in history for line in _steps_of(past))
    rows = []
    for past in history:
        entry, is_kept = past.entry, "yes" if past.is_kept else "no"
        made = entry.version, entry.sha256[:_SHORT_SHA256], entry.cause, entry.committed[:19]
        rows.append((str(entry.generation), *made, is_kept, entry.name, past.outcome))
    head = ("GENERATION", "VERSION", "SHA256", "CAUSE", "COMMITTED", "KEPT", "CHECKPOINT", "OUTCOME")
    return "\n".join(_tabulate(head, rows))


def _steps_of(past: Past) -> Iterator[str]:
    entry = past.entry
    yield f"generation {entry.generation}, version {entry.version}, sha256 {entry.sha256[:_SHORT_SHA256]}"
    yield from _indent(_tabulate(None, [(moment.at[:19], moment.step, moment.why) for moment in past.moments]))
    if past.answers:
        yield f"  {past.answers:,} answers, {past.spoiled:,} spoiled, p99 of the runs {1000 * past.p99_s:.3g} ms"


def comparison_as_text(found: Comparison) -> str:
    """Write what changed between two generations."""
    older, newer = (f"generation {number}" for number in found.generations)
    facts = [(name, *("-" if one is None else str(one) for one in pair)) for name, pair in found.facts.items()]
    lines = _tabulate(("", older, newer), facts) if facts else ["nothing differs but the tensors"]
    moved = [
        (one.name, one.detail or f"{one.relative_l2:.3g}", "" if one.largest is None else f"{one.largest:.3g}")
        for one in found.tensors
    ]
    lines += _tabulate(("TENSOR", "RELATIVE L2", "LARGEST"), moved) if moved else []
    return "\n".join([*lines, found.problem or f"{len(moved)} tensors differ, {found.equal} are equal"])


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


def verdicts_as_text(verdicts: Sequence[Verdict]) -> str:
    """Write what `verify` found."""
    if not verdicts:
        return "no checkpoint with a marker"
    lines = []
    for verdict in verdicts:
        about = f"  sha256 {(verdict.sha256 or '')[:_SHORT_SHA256]}"
        about += f"  version {verdict.version}" if verdict.version else ""
        is_bad = verdict.problem is not None
        lines.append(f"BAD {verdict.path}: {verdict.problem}" if is_bad else f"ok  {verdict.path}{about}")
    bad = sum(verdict.problem is not None for verdict in verdicts)
    return "\n".join([*lines, f"{len(verdicts)} checkpoints, {bad} bad"])


def _drift_as_text(drift: Drift) -> Iterator[str]:
    scores = ", ".join(f"{kind} {score:.2f}" for kind, score in drift.scores.items())
    yield "drift       " + (f"against generation {drift.before}: {scores}" if scores else "too little was seen yet")
    for kind, of in drift.spreads.items():
        values = f"mean {of.mean:g}, deviation {of.deviation:g}, 1 % {of.p01:g}, median {of.p50:g}, 99 % {of.p99:g}"
        yield f"  {kind:<8}  {of.count:,} numbers, {values}"
    chosen = sorted(drift.classes.items(), key=lambda one: -one[1])[:8]
    if chosen:
        yield "  classes   " + ", ".join(f"{place}: {share:.1%}" for place, share in chosen)


def _state_of(status: Status, preparing: int, prepared: int) -> str:
    number = status.proposal.number if status.proposal else 0
    if number and prepared == number:
        return "prepared"
    return "preparing" if number and preparing == number else "serving"


def _tabulate(head: tuple[str, ...] | None, rows: Sequence[tuple[str, ...]]) -> list[str]:
    shown = [*([] if head is None else [head]), *rows]
    widths = [max(map(len, column)) for column in zip(*shown)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in shown]


def _indent(lines: Sequence[str]) -> list[str]:
    return ["  " + line for line in lines]
