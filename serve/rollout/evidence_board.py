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
from collections import Counter
from pathlib import Path
from typing import Any, Callable

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


# After so many answers that both generations spoil, and none that only the new one does, a signal means nothing.
_MOST_SHARED = 50
# Of pairs of runs, for one suspicion.
_PAIRS = 12


class Guard:
    """Counts for the trials of one model in one worker; until `open`, it counts nothing.

    Args:
        retry: which spoiled answers are made again: `finite`, `all` or `off`.
        slower: how many times longer than before a run may take.
        is_rolled_out: whether the label has a rule.
        is_canary: whether its answers are looked at for as long as its rollout goes on.
    """

    def __init__(
        self, retry: str = "off", slower: float = 3.0, is_rolled_out: bool = False, is_canary: bool = False
    ) -> None:
        self.retry, self.slower, self.is_rolled_out = retry, slower, is_rolled_out
        self.is_judged = is_rolled_out and is_canary
        # What is asked instead of the generation before: for a canary the stable label.
        self.elsewhere: Any = None
        self.board: EvidenceBoard | None = None
        # Has the evidence looked at.
        self.wake: Callable[[], None] = lambda: None
        self.pairs_wanted = 0
        # The generation whose answers are looked at when they are written, and not before.
        self.left_to_writer = 0
        self._row = 0
        self._read_trial: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._shared: Counter[tuple[int, str]] = Counter()

    def open(self, board: EvidenceBoard, row: int, read_trial: Callable[[], tuple[int, int]]) -> None:
        """Begin to count in this worker's row.

        `read_trial` returns the generation that is on trial, or 0, and the number of the last return.
        """
        self._row, self._read_trial = row, read_trial
        self.board = board

    def note_run(self, generation: int, answers: int, rows: int, seconds: float) -> bool:
        """Count one run of the module, and return whether its generation is on trial, or has just been taken back."""
        if self.board is None:
            return False
        self.board.note_run(self._row, generation, answers, rows, seconds)
        return self.is_on_trial(generation)

    def is_on_trial(self, generation: int) -> bool:
        """Whether answers of a generation are looked at."""
        on_trial, returned = self._read_trial()
        return generation in (on_trial, returned - 1)

    def note(self, generation: int, signal: str, is_bad: bool = True) -> None:
        """Count an answer that is spoiled, or compared."""
        if self.board is not None:
            self.board.note_bad(self._row, generation, signal, int(is_bad))
            self.wake()

    def note_shared(self, generation: int, signal: str) -> None:
        """Count an answer that the generation before spoils just so; it speaks against neither."""
        self._shared[generation, signal] += 1

    def means_something(self, generation: int, signal: str) -> bool:
        """Whether a signal still tells the two generations apart."""
        return self._shared[generation, signal] < _MOST_SHARED

    def suspect(self) -> None:
        """Have the next runs compared with those of the generation before."""
        self.pairs_wanted = _PAIRS

    def note_pair(self, generation: int, is_slower: bool) -> None:
        """Count a run that was timed on both generations."""
        self.pairs_wanted -= 1
        self.note(generation, SLOWER, is_slower)
