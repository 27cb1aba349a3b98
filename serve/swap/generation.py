"""Making, restoring and freeing generations, and their lines in the log."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Callable

from serve.checkpoint.manifest import Manifest, Stored, parse_marker
from serve.checkpoint.provenance import Provenance
from serve.errors import CheckpointError, CheckpointMovedError
from serve.model.slot import Generation
from serve.source.observation import Load
from serve.system.resources import trim_memory, used_bytes

if TYPE_CHECKING:
    from serve.events.event_log import EventLog
    from serve.model.loader import Loaded, ModelLoader
    from serve.store.ledger import Entry
    from serve.swap.context import Context

_CTIME_SLACK_S = 1.0  # the kernel stamps files with a clock that may be a tick behind
_FRESH_S = 60.0  # a candidate that another worker has just admitted, and is about to propose, stays
ENDED = "stateful"  # the code under which weights that changed are refused, before or after they were live


def make(context: Context, loaded: Loaded, stored: Stored, entry: Entry, before_bytes: int) -> Generation:
    """Make a generation of a model that is ready. `before_bytes`: the memory of the process before it was loaded."""
    trim_memory()  # loading and warming up leave behind what was needed only once
    name, label = context.settings.name, context.settings.label
    provenance = Provenance(name, entry.version, entry.generation, entry.sha256, context.env_digest, label)
    facts: dict[str, object] = {
        "checkpoint": entry.name, "cause": entry.cause, "size_bytes": stored.size_bytes, "format": loaded.format,
        "committed": entry.committed, "marker_mtime_ns": entry.marker_mtime_ns, "copy_s": round(stored.copy_s, 6),
        "hash_s": round(stored.hash_s, 6), "load_s": round(loaded.load_s, 6), "warm_up_s": round(loaded.warm_up_s, 6),
        "memory_before_bytes": before_bytes, "memory_after_bytes": used_bytes(),
    }  # fmt: skip
    return Generation(loaded.predictor, provenance, facts)


def log_live(context: Context, event: str, generation: Generation, before: Generation | None, commit_s: float) -> None:
    """Write the line of a generation that is live now: `swapped`, or `restored` in a worker that starts."""
    board = context.guard.board
    totals = board.sum_up(before.provenance.generation) if before is not None and board is not None else {}
    facts = dict(generation.facts)
    marker_mtime_ns = facts.pop("marker_mtime_ns")
    since_s = time.time() - marker_mtime_ns / 1e9 if isinstance(marker_mtime_ns, int) else None
    context.log.emit(
        event, **identify(generation), **facts, commit_s=round(commit_s, 6),
        since_marker_s=None if since_s is None else round(since_s, 3),
        previous={**identify(before), **totals} if before else None,
    )  # fmt: skip


def restore(context: Context, loader: ModelLoader, entry: Entry) -> bool:
    """Make a committed generation live. Returns whether its bytes were still there, and may be served."""
    generation = None if is_ended(context, entry.sha256) else load_entry(context, loader, entry)
    if generation is not None:
        log_live(context, "restored", generation, context.slot.swap(generation), 0.0)
    return generation is not None


def load_entry(context: Context, loader: ModelLoader, entry: Entry) -> Generation | None:
    """Load a committed generation; `None` where its bytes are neither in the store nor at the watched place."""
    stored = find_stored(context, entry)
    if stored is None:
        return None
    before_bytes = used_bytes()
    return make(context, loader.load(stored, parse_marker(entry.marker.encode())), stored, entry, before_bytes)


def find_stored(context: Context, entry: Entry) -> Stored | None:
    """Find the bytes of a generation; what the store lacks is taken from the watched place, where it has them."""
    stored = context.store.find(entry.sha256)
    for seen in () if stored is not None else context.source.observe():
        if seen.fingerprint == entry.fingerprint or entry.sha256.encode() in seen.text:
            try:
                return context.store.admit(Load(seen, Manifest(sha256=entry.sha256)))
            except CheckpointError as error:  # of what lies there now, half copied perhaps; those bytes may be good
                raise CheckpointMovedError(f"{seen.path.name}: {error.message}", hint=error.hint) from error
    return stored


def is_ended(context: Context, sha256: str) -> bool:
    """Whether these weights were refused because they change while they answer."""
    record = context.quarantine.find_sha256(sha256, "")
    return record is not None and record.code == ENDED


def kept(context: Context) -> frozenset[str]:
    """Return the sha256 of the generations that the store keeps."""
    return frozenset(entry.sha256 for entry in context.ledger.read()[-context.settings.keep :])


def prune(context: Context, needed: Callable[[], frozenset[str]]) -> None:
    """Delete from the store what is neither `needed` (`Committer.kept`) nor to be tried again."""
    entries = context.ledger.read()
    committed_s = datetime.fromisoformat(entries[-1].committed).timestamp() if entries else 0.0
    again = (record.subject for record in context.quarantine.records() if record.retry_at_s is not None)
    before_s = max(committed_s - _CTIME_SLACK_S, time.time() - _FRESH_S)
    context.store.prune(needed().union(again), before_s)


def free(drained: list[Generation], log: EventLog) -> None:
    """Free generations that no request uses any more, here, and log it; empties the list, their last holder."""
    while drained:
        generation = drained.pop(0)
        facts, before_bytes, started_s = identify(generation), used_bytes(), time.monotonic()
        generation.predictor.release()
        del generation
        trim_memory()
        seconds = round(time.monotonic() - started_s, 6)
        log.emit("retired", **facts, free_s=seconds, memory_before_bytes=before_bytes, memory_after_bytes=used_bytes())


def identify(generation: Generation) -> dict[str, object]:
    """Return the keys by which the log names a generation."""
    provenance = generation.provenance
    return {"generation": provenance.generation, "version": provenance.version, "sha256": provenance.sha256}
