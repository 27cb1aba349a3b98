"""What the workers of a host have seen of the live generation and of the one before, in memory that they share.

A file beside the store, mapped by every worker, with a row for each. A worker writes only its own row; what it has
counted stays when it dies. Each row has two sections, of the generation that the worker runs and of the one that it
ran before. Counting one run takes about two microseconds.
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_left
from pathlib import Path
from typing import Any

from serve.rollout.decision import DISAGREED, SIGNALS, SLOWER, TIME_BOUNDS_S, Count, Evidence

ROWS = 128
_MAGNITUDES, _BUCKETS = 6, len(TIME_BOUNDS_S) + 1
_GENERATION, _ANSWERS, _PAIRS, _COMPARED, _FIRST_BAD = range(5)
_FIRST_TIME = _FIRST_BAD + len(SIGNALS)
_SECTION = _FIRST_TIME + _MAGNITUDES * _BUCKETS
_SIZE_BYTES = 8 * ROWS * 2 * _SECTION
_OF = {SLOWER: _PAIRS, DISAGREED: _COMPARED}


class EvidenceBoard:
    """The mapped file, seen by one process; raises `OSError`: it cannot be created or mapped."""

    def __init__(self, root: Path) -> None:
        descriptor = os.open(root / "evidence", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Really allocated, as a hole on a full disk would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, _SIZE_BYTES)
            mapped = mmap.mmap(descriptor, _SIZE_BYTES)
        finally:
            os.close(descriptor)
        self._cells = memoryview(mapped).cast("Q")
        import numpy  # a third of what `serve status` would import, which has a board only during a trial

        self._all: Any = numpy.frombuffer(mapped, numpy.uint64).reshape(ROWS * 2, _SECTION)
        self._lock = threading.Lock()
        self._known = 0, 0, 0  # the last generation and row, and where its section begins

    def note_run(self, row: int, generation: int, answers: int, rows: int, seconds: float) -> None:
        """Count one run of the module."""
        magnitude = min(rows.bit_length() - 1, _MAGNITUDES - 1) if rows > 0 else 0
        bucket = _FIRST_TIME + magnitude * _BUCKETS + bisect_left(TIME_BOUNDS_S, seconds)
        with self._lock:
            known = self._known
            start = known[2] if known[0] == generation and known[1] == row else self._section(row, generation)
            self._cells[start + _ANSWERS] += answers
            self._cells[start + bucket] += 1

    def note_bad(self, row: int, generation: int, signal: str, bad: int = 1, of: int = 1) -> None:
        """Count bad answers; `of` counts for `slower` and `disagreed` alone, the others are shares of the answers."""
        with self._lock:
            start = self._section(row, generation)
            self._cells[start + _FIRST_BAD + SIGNALS.index(signal)] += bad
            if signal in _OF:
                self._cells[start + _OF[signal]] += of

    def read(self, generation: int, before: int, started_s: float) -> Evidence:
        """Add up the rows; `before`: the generation that it is compared with."""
        numbers = self._all[:, _GENERATION]
        mine, former = (self._all[numbers == number].sum(axis=0) for number in (generation, before))
        bad = mine[_FIRST_BAD:_FIRST_TIME]
        counts = {
            signal: Count(int(bad[place]), int(mine[_OF.get(signal, _ANSWERS)])) for place, signal in enumerate(SIGNALS)
        }
        times, times_before = (
            found[_FIRST_TIME:].astype(int).reshape(_MAGNITUDES, _BUCKETS).tolist() for found in (mine, former)
        )
        return Evidence(started_s, int(mine[_ANSWERS]), counts, times=times, times_before=times_before)

    def _section(self, row: int, generation: int) -> int:
        """Return where the section of a generation begins; one that is new takes the place of the older one."""
        first = row % ROWS * 2 * _SECTION
        second = first + _SECTION
        start = next((start for start in (first, second) if self._cells[start] == generation), None)
        if start is None:
            start = first if self._cells[first] < self._cells[second] else second
            self._cells[start : start + _SECTION] = memoryview(bytes(8 * _SECTION)).cast("Q")
            self._cells[start] = generation
        # A generation of a number below has its own section still, which a late request of it may take.
        self._known = generation, row, start
        return start
