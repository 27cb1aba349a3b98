"""What the workers of a host have seen of the live generation and of the one before, in memory that they share.

A file beside the store, mapped by every worker, with a row for each, which it alone writes and which stays when it
dies: two sections, of the generation that it runs and of the one before. Counting one run takes about two microseconds.
Behind the evidence are the sketches of `serve.rollout.drift`."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Protocol

from serve.events.event_log import EventLog
from serve.rollout import decision, drift
from serve.rollout.decision import DISAGREED, LONG_S, SIGNALS, SLOWER, SPOILED, TIME_BOUNDS_S, Count, Evidence, quantile
from serve.store.quarantine import explain

ROWS = 128
_MAGNITUDES, _BUCKETS = 6, len(TIME_BOUNDS_S) + 1
_GENERATION, _ANSWERS, _PAIRS, _COMPARED, _FIRST_BAD = range(5)
_FIRST_TIME = _FIRST_BAD + len(SIGNALS)
_FIRST_SKETCH = _FIRST_TIME + _MAGNITUDES * _BUCKETS
# Each begins with two floating-point numbers, its sum and its sum of squares.
_SKETCHES = {drift.INPUTS: drift.BUCKETS, drift.ANSWERS: drift.BUCKETS, drift.CLASSES: drift.CLASS_COUNT}
_SECTION = _FIRST_SKETCH + sum(2 + count for count in _SKETCHES.values())
_SIZE_BYTES = 8 * ROWS * 2 * _SECTION
# Another layout is another file: a server of another version may still be writing into its own.
BOARD = f"evidence-{_SECTION}"
_OF = {SLOWER: _PAIRS, DISAGREED: _COMPARED}


class EvidenceBoard:
    """The mapped file, seen by one process; raises `OSError`: it cannot be created or mapped."""

    def __init__(self, root: Path) -> None:
        descriptor = os.open(root / BOARD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE_BYTES)  # really: a hole on a full disk would be a SIGBUS
            mapped = mmap.mmap(descriptor, _SIZE_BYTES)
        finally:
            os.close(descriptor)
        self._cells, self._floats = memoryview(mapped).cast("Q"), memoryview(mapped).cast("d")
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

    def note_sketches(self, row: int, generation: int, sketches: Mapping[str, tuple[float, float, Any]]) -> None:
        """Add what was seen of a run, by kind, in the order of `drift.KINDS`."""
        with self._lock:
            place = self._section(row, generation) + _FIRST_SKETCH
            for total, squares, counts in sketches.values():
                self._floats[place] += total
                self._floats[place + 1] += squares
                self._counted[place + 2 : place + 2 + len(counts)] += counts.astype("uint64")
                place += 2 + len(counts)

    @functools.cached_property
    def _counted(self) -> Any:
        import numpy  # a third of what `serve status` would import, which only reads

        return numpy.frombuffer(self._cells, numpy.uint64)

    def read(self, generation: int, before: int, started_s: float) -> Evidence:
        """Add up the rows; `before`: the generation that it is compared with."""
        mine, former = (self._add_up(number, 0, _FIRST_SKETCH) for number in (generation, before))
        counts = {
            signal: Count(mine[_FIRST_BAD + place], mine[_OF.get(signal, _ANSWERS)])
            for place, signal in enumerate(SIGNALS)
        }
        times, times_before = (
            [found[_FIRST_TIME + place * _BUCKETS :][:_BUCKETS] for place in range(_MAGNITUDES)]
            for found in (mine, former)
        )
        return Evidence(started_s, mine[_ANSWERS], counts, times=times, times_before=times_before)

    def sum_up(self, generation: int) -> dict[str, Any]:
        """Sum up a generation that was counted: its answers, how many it spoiled, the 99th percentile of its runs."""
        found = self.read(generation, 0, 0.0)
        if not found.answers:
            return {}
        spoiled = sum(found.counts[signal].bad for signal in SPOILED)
        times = [sum(column) for column in zip(*found.times)]
        return {"answers": found.answers, "spoiled": spoiled, "p99_s": round(quantile(times, 0.99), 6)}

    def read_drift(self, generation: int, before: int) -> drift.Drift:
        """Compare the sketches of two generations."""
        return drift.describe(generation, before, self._read_sketches(generation), self._read_sketches(before))

    def _read_sketches(self, generation: int) -> dict[str, drift.Sketch]:
        place, found = _FIRST_SKETCH, {}
        for kind, count in _SKETCHES.items():
            starts = self._starts(generation)
            total, squares = (sum(self._floats[start + at] for start in starts) for at in (place, place + 1))
            found[kind] = drift.Sketch(total, squares, self._add_up(generation, place + 2, count))
            place += 2 + count
        return found

    def _starts(self, generation: int) -> list[int]:
        starts = range(0, ROWS * 2 * _SECTION, _SECTION)
        return [start for start in starts if generation and self._cells[start] == generation]

    def _add_up(self, generation: int, first: int, count: int) -> list[int]:
        rows = [self._cells[start + first : start + first + count].tolist() for start in self._starts(generation)]
        return [sum(column) for column in zip(*rows)] or [0] * count

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


SUSPECTED_PAIRS, _FIRST_PAIRS, _MORE_PAIRS = 12, 3, 4  # for a suspicion, a new generation, a slower one
_PAIRS_SHARE, _PAIRS_PAUSE_S = 0.002, 10.0  # of a worker's time, to look for a suspicion; the longest pause


ReadTrial = Callable[[], tuple[int, int]]


@dataclass(eq=False)
class Guard:
    """Counts for the trials of one model in one worker; until `open`, it counts nothing."""

    retry: str = "off"  # which spoiled answers are made again: `finite`, `all` or `off`
    slower: float = 3.0  # how many times longer than before a run may take
    is_rolled_out: bool = False  # whether the label has a rule
    is_canary: bool = False  # whether its answers are looked at for as long as its rollout goes on
    drift_share: float = 0.0  # of this worker's time, in which runs are sketched
    elsewhere: Any = None  # what is asked instead of the generation before: for a canary the stable label
    board: EvidenceBoard | None = None
    wake: Callable[[], None] = lambda: None  # has the evidence looked at
    pairs_wanted: int = 0
    left_to_writer: int = 0  # the generation whose answers are looked at when they are written, and not before

    def __post_init__(self) -> None:
        self.is_judged = self.is_rolled_out and self.is_canary
        self._sketch_at_s, self._pair_at_s, self._paired, self._row = 0.0, 0.0, 0, 0
        self._is_counting = self._is_long = False
        self._read_trial: ReadTrial = lambda: (0, 0)
        # Answers that the generation before spoils just so; they speak against neither.
        self.shared: Counter[tuple[int, str]] = Counter()

    def open(self, board: EvidenceBoard, row: int, read_trial: ReadTrial, is_counting: bool = True) -> None:
        """Begin to count in this row; `read_trial` gives the generation on trial, or 0, and the last return."""
        # What is not counted, which costs each run a microsecond, may still be sketched.
        self.board, self._row, self._read_trial, self._is_counting = board, row, read_trial, is_counting

    def sketch(self, generation: int, read: Callable[[], tuple[object, object]]) -> None:
        """Sketch a run, if the last one is long enough ago; `read` returns what the module took and gave."""
        began_s = time.monotonic()
        if self.board is None or not self.drift_share or began_s < self._sketch_at_s:
            return
        with contextlib.suppress(Exception):  # whatever a module takes and gives: it has answered
            inputs, answers = read()
            found = drift.sketch(inputs), drift.sketch(answers), (0.0, 0.0, drift.count_classes(answers))
            self.board.note_sketches(self._row, generation, dict(zip(drift.KINDS, found)))
        ended_s = time.monotonic()
        self._sketch_at_s = ended_s + (ended_s - began_s) / self.drift_share

    def note_run(self, generation: int, answers: int, rows: int, seconds: float) -> bool:
        """Count one run of the module, and return whether its generation is on trial, or has just been taken back."""
        if self.board is None or not self._is_counting:
            return False
        self.board.note_run(self._row, generation, answers, rows, seconds)
        self._is_long = seconds > LONG_S
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

    def wants_pair(self, generation: int) -> bool:
        """Whether to time a run on both generations at one moment: the first ones, now and then, or on suspicion."""
        if generation != self._paired and not self._is_long:
            self._paired, self.pairs_wanted = generation, _FIRST_PAIRS
        return self.pairs_wanted > 0 or (not self._is_long and time.monotonic() >= self._pair_at_s)

    def note_pair(self, is_slower: bool, took_s: float) -> None:
        """Note that a run was timed on both generations; what seems slower is looked at more closely."""
        self._pair_at_s = time.monotonic() + min(took_s / _PAIRS_SHARE, _PAIRS_PAUSE_S)
        self.pairs_wanted = max(self.pairs_wanted - 1, _MORE_PAIRS if is_slower else 0)


_LOOK_S, _PAUSE_S, _IDLE_S = 0.25, 0.02, 2.0
_SUSPICION_S = 2.0  # between two suspicions: where the machine is slow and not the model, pairs are wasted


class Trial(Protocol):
    """What a watch is over."""

    def find(self) -> int:
        """Return the generation that is on trial, or 0."""

    def read(self, number: int) -> Evidence:
        """Return what is known of it."""

    def carry_out(self, number: int, verdict: decision.Verdict, evidence: Evidence) -> None:
        """Do what follows from a verdict, once on the host."""


class Watch:
    """Watches one trial in a thread; every worker has one and sees the same, so it does not matter which one acts."""

    def __init__(self, trial: Trial, rule: decision.Rule, guard: Guard, log: EventLog) -> None:
        self._trial, self._rule, self._guard, self._log = trial, rule, guard, log
        self._number, self._suspect_at_s = 0, 0.0
        self._settled: decision.Settled = {}
        self._lock, self._wake_up, self._is_stopping = threading.Lock(), threading.Event(), False
        self._thread: threading.Thread | None = None

    def start(self, name: str) -> None:
        """Begin to look, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Look now."""
        self._wake_up.set()

    def stop(self) -> None:
        """End the thread; the worker ends."""
        self._is_stopping = True
        self._wake_up.set()

    def look(self) -> decision.Verdict | None:
        """Decide about what is on trial, and do it; `None` where nothing is."""
        with self._lock:
            number, now_s = self._trial.find(), time.monotonic()
            if not number:
                return None
            if number != self._number:
                self._number, self._settled = number, {}
            evidence = replace(self._trial.read(number), settled=self._settled)
            self._settled = decision.settle(evidence, self._rule)
            if now_s > self._suspect_at_s and decision.is_suspect(evidence, self._rule):
                self._suspect_at_s = now_s + _SUSPICION_S
                self._guard.pairs_wanted = SUSPECTED_PAIRS
            verdict = decision.decide(evidence, self._rule, now_s)
            if verdict.step is not decision.Step.WAIT:
                self._trial.carry_out(number, verdict, evidence)
            return verdict

    def _run(self) -> None:
        last_fault, is_on_trial = "", True
        while not self._is_stopping:
            try:
                is_on_trial, last_fault = self.look() is not None, ""
            except Exception as error:  # a full disk, for example: the next look tries again
                if explain(error) != last_fault:
                    last_fault = explain(error)
                    self._log.emit("fault", reason=last_fault)
            time.sleep(_PAUSE_S)  # what comes together is looked at once
            self._wake_up.wait(_LOOK_S if is_on_trial else _IDLE_S)
            self._wake_up.clear()
