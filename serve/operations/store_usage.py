"""What occupies a store, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve.store.judgement import Record
from serve.store.ledger import Entry
from serve.store.stored_files import StoredFiles
from serve.swap.host_coordinator import Proposal


@dataclass(frozen=True)
class Occupant:
    """One file of the store that takes room.

    Args:
        name: its sha256, or that of an unfinished copy.
    """

    name: str
    size_bytes: int
    why: str


def list_occupants(
    shelf: StoredFiles, entries: Sequence[Entry], refused: Sequence[Record], proposal: Proposal | None
) -> list[Occupant]:
    """List the files of a store that take room, the largest first."""
    reasons: dict[str, str] = {}
    for record in refused:
        again = "to be tried again" if record.retry_at_s is not None else "not to be tried again"
        reasons[record.subject] = f"{record.name} was refused ({record.code}), {again}"
    reasons.update({each.sha256: f"kept: generation {each.generation}, version {each.version}" for each in entries})
    if entries:
        reasons[entries[-1].sha256] = f"served: generation {entries[-1].generation}, version {entries[-1].version}"
    if proposal is not None:
        reasons[proposal.entry.sha256] = f"{proposal.entry.name} is being prepared"
    found = [
        Occupant(name, size_bytes, reasons.get(name, "being copied" if name.endswith(".part") else "a candidate"))
        for name, size_bytes in shelf.entries().items()
    ]
    return sorted(found, key=lambda each: -each.size_bytes)
