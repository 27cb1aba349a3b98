"""The generations of one host, in the order of their commits.

An append-only file of JSON lines beside the store, written under the lock of the commits. It is what lasts: a worker
that starts late, and a server that starts again, find in it what is committed, whatever the watched place holds by
then. The commit word is only its last number, where requests can read it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from serve import durable_files
from serve.errors import LedgerError

if TYPE_CHECKING:
    from serve.store.checkpoint_store import Store

CHECKPOINT = "checkpoint"
ROLLBACK = "rollback"
RETURN = "return"  # from a generation that did not hold, by itself
PROMOTION = "promotion"  # from a canary or a shadow whose rule came true


@dataclass(frozen=True)
class Entry:
    """One generation."""

    generation: int
    sha256: str
    size_bytes: int
    version: str
    name: str
    marker_mtime_ns: int
    fingerprint: str
    committed: str = ""  # when, as ISO 8601
    marker_generation: int = 0  # the publisher's own number for it, or 0
    cause: str = CHECKPOINT
    marker: str = ""  # its text, for workers that prepare it later and did not see it themselves

    @property
    def order(self) -> tuple[int, int, str]:
        """The rank that its observation had."""
        return self.marker_generation, self.marker_mtime_ns, self.name

    @property
    def identity(self) -> dict[str, object]:
        """The keys by which the log names it."""
        known = {"generation": self.generation, "version": self.version, "sha256": self.sha256}
        return {**known, "trace_id": self.trace_id}

    @property
    def trace_id(self) -> str:
        """The trace of its swap, 32 hexadecimal digits; the same in all workers of all hosts."""
        stated = f"{self.generation} {self.version} {self.sha256} {self.fingerprint} {self.marker_mtime_ns}"
        return hashlib.sha256(stated.encode()).hexdigest()[:32]

    def has_same_content(self, other: Entry) -> bool:
        """Whether the other entry would answer the same under the same version."""
        return (self.sha256, self.version) == (other.sha256, other.version)


@dataclass(frozen=True)
class _Read:
    """What is known of the file, which only grows if `last_line` is there; parsing all of it costs more each time."""

    state: tuple[int, int, int] = (0, 0, 0)
    entries: Sequence[Entry] = ()
    end: int = 0
    last_line: bytes = b""


class Ledger:
    """The file of generations."""

    def __init__(self, store: Store) -> None:
        self._path = store.root / "generations.jsonl"
        self.lock_path = store.root / "commit.lock"
        self._read = _Read()
        self._is_named = False

    def read(self) -> list[Entry]:
        """Return every generation, the oldest first; a last line without its end was never committed."""
        try:
            seen = self._path.stat()
        except FileNotFoundError:
            return []
        state = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
        if self._read.state != state:
            self._read = self._read_on(state)
        return list(self._read.entries)

    def _read_on(self, state: tuple[int, int, int]) -> _Read:
        """Read what was appended since; all of it where that is not all that happened to the file."""
        known = self._read if self._read.state[0] == state[0] else _Read()
        with self._path.open("rb") as reader:
            reader.seek(known.end - len(known.last_line))
            if reader.read(len(known.last_line)) != known.last_line:
                known = _Read()
                reader.seek(0)
            lines = [line for line in reader.read().splitlines(keepends=True) if line.endswith(b"\n")]
        end = known.end + sum(map(len, lines))
        last_line = lines[-1] if lines else known.last_line
        return _Read(state, [*known.entries, *map(_parse, lines)], end, last_line)

    def up_to(self, generation: int) -> list[Entry]:
        """Return the generations up to one, the oldest first."""
        return [entry for entry in self.read() if entry.generation <= generation]

    def find(self, generation: int) -> Entry | None:
        """Return one generation, where it was committed."""
        return next((entry for entry in self.read() if entry.generation == generation), None)

    def last(self) -> Entry | None:
        """Return the committed generation, or `None` before the first."""
        entries = self.read()
        return entries[-1] if entries else None

    def commit(self, proposed: Entry, after: int = 0) -> Entry:
        """Number a generation, the same in every worker, and return the entry as the file has it. `after`: what the
        worker answers with, before which the same may have been live. Another worker may be ahead by one."""
        with durable_files.hold(self.lock_path):
            entries = self.read()
            for entry in entries:
                is_same = entry.fingerprint == proposed.fingerprint and entry.has_same_content(proposed)
                if is_same and entry.generation > after:
                    return entry
            if entries and entries[-1].has_same_content(proposed):
                return entries[-1]
            return self.append(number(proposed, entries))

    def append(self, entry: Entry) -> Entry:
        """Write one numbered generation, holding the lock of the commits; raises `OSError`, nothing committed."""
        entry = replace(entry, committed=datetime.now(timezone.utc).isoformat())
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            end = content.rfind(b"\n") + 1
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            durable_files.write_all(descriptor, json.dumps(asdict(entry)).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # Its name need be written once, by each process that cannot know that it was.
        if not content or not self._is_named:
            durable_files.sync_directory(self._path.parent)
            self._is_named = True
        return entry


def number(proposed: Entry, entries: list[Entry]) -> Entry:
    """Give a proposed entry the number after the last one."""
    return replace(proposed, generation=entries[-1].generation + 1 if entries else 1)


def _parse(line: bytes) -> Entry:
    try:
        # Keys of a newer version are passed over, so that the version before it can start again after an upgrade.
        return durable_files.from_known(Entry, json.loads(line))
    except (ValueError, TypeError) as error:
        hint = "move the store away; generations then start again at 1"
        raise LedgerError(f"generations.jsonl: expected one entry on each line, found {line[:80]!r}", hint) from error
