"""Reproducibility: make a lock a second time elsewhere, and compare the two prefixes file by file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from envtool.console import ProgressDisplay
from envtool.fetch.archive_cache import Cache
from envtool.install.create import create
from envtool.install.request import Request
from envtool.lockfile.model import Lockfile
from envtool.prefix.prefix import Prefix
from envtool.prefix.scan import Entry
from envtool.verify import Finding, VerifyReport, take_inventory

_SHOWN_BYTES = 16
_CHUNK_BYTES = 1 << 20


def compare_with_rebuilt(
    prefix: Prefix, lockfile: Lockfile, report: VerifyReport, cache: Cache, display: ProgressDisplay
) -> VerifyReport:
    """Add to a verification what differs from a second prefix, made from the same lock. Raises what `create` raises."""
    receipt = prefix.require_whole()
    # Beside the first, since it takes as much room; with another length of path, since that is what differs elsewhere.
    with tempfile.TemporaryDirectory(prefix=f".{prefix.path.name}-", dir=prefix.path.parent) as scratch:
        second = Prefix(Path(scratch))
        request = Request(
            lockfile, receipt.platform, receipt.categories, "envtool verify --rebuild", is_listed=False,
            is_from_archives=True,
        )  # fmt: skip
        create(request, second, cache, display)
        locked = request.packages
        first_entries = take_inventory(prefix, locked, cache, display).entries
        second_entries = take_inventory(second, locked, cache, display).entries
        known = {each.what for each in report.findings}
        found = [each for each in _differences(prefix, first_entries, second, second_entries) if each.what not in known]
    return replace(report, findings=(*report.findings, *found))


def _differences(
    first: Prefix, first_entries: Mapping[str, Entry], second: Prefix, second_entries: Mapping[str, Entry]
) -> Iterator[Finding]:
    for path in sorted(first_entries.keys() | second_entries.keys()):
        here, there = first_entries.get(path), second_entries.get(path)
        if here is None:
            yield Finding("missing", path, "the rebuilt environment has it")
        elif there is None:
            yield Finding("extra", path, "the rebuilt environment does not have it")
        elif replace(here, size_bytes=0) != replace(there, size_bytes=0):
            yield Finding("mismatched", path, first_difference(first.path / path, second.path / path))


def first_difference(first: Path, second: Path) -> str:
    """Where two files differ first, with the bytes of both, for people."""
    if first.is_symlink() or second.is_symlink():
        return "a link that leads elsewhere in the rebuilt environment"
    offset = 0
    with first.open("rb") as one, second.open("rb") as other:
        while True:
            here, there = one.read(_CHUNK_BYTES), other.read(_CHUNK_BYTES)
            if here != there:
                at = next((i for i, (a, b) in enumerate(zip(here, there)) if a != b), min(len(here), len(there)))
                shown = here[at : at + _SHOWN_BYTES].hex(" "), there[at : at + _SHOWN_BYTES].hex(" ")
                return f"differs from the rebuilt file at byte {offset + at}: {shown[0]} against {shown[1]}"
            if not here:
                return "has another mode than the rebuilt file"
            offset += len(here)
