"""What became of each generation, from its publication to its return, on what it was decided, and what changed between.

Made of the ledger, of the markers in it, and of the journal of events; comparing tensors needs torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from serve.checkpoint.formats import detect_format
from serve.checkpoint.manifest import manifest_of, publisher_of
from serve.errors import CheckpointError
from serve.events.event_log import OUTCOMES, REPLACED, SWAPPED
from serve.store.ledger import CHECKPOINT, PROMOTION, Entry

if TYPE_CHECKING:
    from serve.store.checkpoint_store import Store

NAMES = (SWAPPED, *OUTCOMES)
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """One step of a generation. `at`: ISO 8601 in UTC; `why`: what it was decided on, in words."""

    step: str  # published, gates, canary, shadow, committed, and what `OUTCOMES` has
    at: str
    why: str


@dataclass(frozen=True)
class Past:
    """One generation of the history."""

    entry: Entry
    is_kept: bool  # whether its checkpoint is in the store, so that a rollback to it is possible
    moments: Sequence[Moment] = ()
    env_digest: str | None = None
    answers: int = 0  # how many requests it answered, where they were counted
    spoiled: int = 0  # how many of them it spoiled
    p99_s: float = 0.0  # the 99th percentile of its runs

    @property
    def outcome(self) -> str:
        """What became of it on trial, and why, while the journal has it."""
        decided = [moment for moment in self.moments if moment.step in OUTCOMES.values()]
        return f"{decided[-1].step}: {decided[-1].why}" if decided else ""


def describe(entry: Entry, is_kept: bool, events: Sequence[Event], trials: Mapping[str, Sequence[Event]]) -> Past:
    """Tell what became of a generation; `events` are of it and what came after, the oldest first, `trials` by label."""
    swapped = [one for one in events if one["event"] == SWAPPED and one.get("generation") == entry.generation]
    later = [one["previous"] for one in events if previous_of(one) == entry.generation]
    after: Mapping[str, Any] = max(later, key=lambda totals: int(totals.get("answers", 0)), default={})
    totals = {key: after.get(key, 0) for key in ("answers", "spoiled", "p99_s")}
    moments = (*_until_committed(entry, swapped, trials), *_after(entry, events))
    return Past(entry, is_kept, moments, next((one.get("env_digest") for one in swapped), None), **totals)


def previous_of(event: Event) -> int:
    """Return the generation that was live before, or was taken back; 0 for none."""
    return int((event.get("previous") or {}).get("generation", 0))


def _until_committed(entry: Entry, swapped: Sequence[Event], trials: Mapping[str, Sequence[Event]]) -> Iterator[Moment]:
    manifest = manifest_of(entry.marker)
    if entry.cause in (CHECKPOINT, PROMOTION):
        metrics = ", ".join(f"{name} {value:g}" for name, value in manifest.metrics.items())
        publisher = publisher_of(manifest)
        why = f"{entry.name}{f', signed by {publisher}' if publisher else ''}{f', {metrics}' if metrics else ''}"
        at = datetime.fromtimestamp(entry.marker_mtime_ns / 1e9, timezone.utc).isoformat(timespec="milliseconds")
        yield Moment("published", at, why)
    for label, events in trials.items() if entry.cause == PROMOTION else ():
        for one in events:
            if one["event"] == "promoted" and one.get("sha256") == entry.sha256:
                yield Moment(label, one["time"], f"{one.get('reason', '')}")
    if swapped:
        found = max(swapped, key=lambda one: one.get("load_s") or 0)
        golden = f", {len(manifest.golden)} golden requests" if manifest.golden else ""
        why = (
            f"sha256, {found.get('format')}, names, finite weights, the example{golden}; loaded in "
            f"{found.get('load_s') or 0:.3f} s, answered in {found.get('warm_up_s') or 0:.3f} s"
        )
        yield Moment("gates", entry.committed, why)
    by = f", by {len({one['worker'] for one in swapped})} workers" if swapped else ""
    yield Moment("committed", entry.committed, f"{entry.cause}{by}")


def _after(entry: Entry, events: Sequence[Event]) -> Iterator[Moment]:
    for one in events:
        about = previous_of(one) if one["event"] == REPLACED else one.get("generation")
        if one["event"] in OUTCOMES and about == entry.generation:
            seen = f" after {one['seconds']:g} s" if "seconds" in one else ""
            yield Moment(OUTCOMES[one["event"]], one["time"], f"{one.get('reason', '')}{seen}")


@dataclass(frozen=True)
class TensorChange:
    """How far one tensor has moved: the norm of the difference relative to that of the older one, and the largest."""

    name: str
    relative_l2: float | None  # `None` where no number is: from zero, of another shape, or only on one side
    largest: float | None
    detail: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two generations, the older one first. `facts`: by name, what each states, where they differ."""

    generations: tuple[int, int]
    facts: Mapping[str, tuple[object, object]]
    tensors: Sequence[TensorChange]  # those that differ, the farthest first
    equal: int
    problem: str = ""  # why the tensors were not compared


def compare(one: Past, other: Past, store: Store) -> Comparison:
    """Compare two generations."""
    stated = [_facts_of(past) for past in (one, other)]
    pairs = {name: (stated[0].get(name), stated[1].get(name)) for name in (*stated[0], *stated[1])}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    numbers = one.entry.generation, other.entry.generation
    if one.entry.sha256 == other.entry.sha256:
        return Comparison(numbers, differing, (), 0, "the bytes are the same")
    try:
        older, newer = (_read(store, past.entry.sha256) for past in (one, other))
    except (CheckpointError, ImportError, OSError) as error:
        return Comparison(numbers, differing, (), 0, str(error))
    changes = [_compare(name, older.get(name), newer.get(name)) for name in dict.fromkeys((*older, *newer))]
    moved = [change for change in changes if change is not None]
    far = sorted(moved, key=lambda change: -math.inf if change.relative_l2 is None else -change.relative_l2)
    return Comparison(numbers, differing, far, len(changes) - len(moved))


def _facts_of(past: Past) -> dict[str, object]:
    entry, manifest = past.entry, manifest_of(past.entry.marker)
    return {
        "version": entry.version, "sha256": entry.sha256, "size_bytes": entry.size_bytes, "checkpoint": entry.name,
        "cause": entry.cause, "environment": past.env_digest, "publisher": publisher_of(manifest),
        "golden": len(manifest.golden), **{f"metric {name}": value for name, value in manifest.metrics.items()},
    }  # fmt: skip


def _read(store: Store, sha256: str) -> Mapping[str, Any]:
    stored = store.find(sha256)
    if stored is None:
        raise CheckpointError("missing", f"{sha256[:12]} is not in the store any more")
    from serve.model.state_dicts import choose, states_in
    from serve.model.weights import PROGRAMS, read_state

    format = detect_format(stored.path)
    if format in PROGRAMS:
        state = PROGRAMS[format](stored.path, "cpu").state_dict()
    else:
        _, state = choose(states_in(read_state(stored.path, format, may_unpickle=False)), None)
    return {name: tensor for name, tensor in state.items() if hasattr(tensor, "dtype")}


def _compare(name: str, older: Any, newer: Any) -> TensorChange | None:
    shapes = [None if one is None else [str(one.dtype), *one.shape] for one in (older, newer)]
    if shapes[0] != shapes[1]:
        was, now = ("absent" if shape is None else " ".join(map(str, shape)) for shape in shapes)
        return TensorChange(name, None, None, f"{was}, then {now}")
    moved = (newer.double() - older.double()).abs()
    largest = float(moved.max()) if moved.numel() else 0.0
    if not largest:
        return None
    length = float(older.double().norm())
    return TensorChange(name, float(moved.norm()) / length if length else None, largest, "" if length else "from zero")
