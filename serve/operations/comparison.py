"""What changed between two generations: bytes, tensors (for which it needs torch), environment, publisher, metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve.checkpoint.formats import detect_format
from serve.checkpoint.manifest import manifest_of, publisher_of
from serve.errors import CheckpointError
from serve.operations.timeline import Past

if TYPE_CHECKING:
    from serve.store.checkpoint_store import Store


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
        states = [_read(store, past.entry.sha256) for past in (one, other)]
    except (CheckpointError, ImportError, OSError) as error:
        return Comparison(numbers, differing, (), 0, str(error))
    older, newer = states
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
    if not moved.numel() or not float(moved.max()):
        return None
    length = float(older.double().norm())
    largest = float(moved.max())
    return TensorChange(name, float(moved.norm()) / length if length else None, largest, "" if length else "from zero")
