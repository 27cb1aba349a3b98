"""The commit word: the number of the live generation, in memory that all workers of a host share, and who they are.

A small file beside the store, mapped by every worker and never replaced. Each cell is 8 bytes at an address that 8
divides, read and written by one machine instruction: `memoryview` of format `Q` copies 8 bytes at once, which x86-64
and AArch64 make indivisible (Intel SDM vol. 3A 9.1.1; Arm ARM B2.2.1). So a reader sees the old number or the new one.

    cell 0        what this file is
    cell 1        the commit word
    cell 2        the turn: rises whenever workers have something new to look at
    cell 3        the number of the open proposal, or 0
    cell 4        the number of the last proposal
    cell 5        how many workers died while they prepared the open proposal
    cell 6        how many rows were ever used
    cell 7        the number of the proposal that was committed last
    cell 8        the generation whose requests share no runs any more, or 0
    cell 9        the generation that is on trial, or 0
    cell 10       the generation that is kept while its successor is on trial
    cell 11       the number of the last generation that was a return to it
    cell 12       when the trial began, in milliseconds of the monotonic clock
    cell 13       how many workers died during the trial
    cell 14       the generation whose rollout has ended: a canary that answers no more, a shadow that is judged
    cell 15       the last generation that was not on trial because memory was short
    cells 16 …    one row of eight cells for each worker

A worker claims a row by locking `<store>/workers/<row>`. The kernel releases that lock when the process ends, however
it ends, so no worker waits for a dead one, and a slow one is never taken for dead. The file is volatile: what is
committed is in the ledger. `serve.swap.host_coordinator` decides who may write which cell.
"""

from __future__ import annotations

import functools
import mmap
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from serve import durable_files
from serve.errors import LedgerError

_MAGIC = int.from_bytes(b"envserv1", "little")
_IDENTITY, _COMMITTED = 0, 1
ON_TRIAL, RETURNED = 9, 11
_FIRST_ROW, _ROW_CELLS = 16, 8
_PID, _PREPARING, _PREPARED, _LIVE, _PARENT = range(5)
ROWS = 500
_SIZE_BYTES = 8 * (_FIRST_ROW + ROWS * _ROW_CELLS)


class Cell:
    """One cell as an attribute; the module's docstring states what each is."""

    def __init__(self, index: int) -> None:
        self._index = index

    def __get__(self, shared_state: SharedState, owner: object = None) -> int:
        return shared_state.cells[self._index]

    def __set__(self, shared_state: SharedState, value: int) -> None:
        shared_state.cells[self._index] = value


@dataclass(frozen=True)
class Row:
    """One worker's row: processes, proposals and a generation by number, or 0; a lock shows whether it lives."""

    pid: int = 0
    preparing: int = 0
    prepared: int = 0
    live: int = 0
    parent: int = 0


class SharedState:
    """The mapped file; opened when it is first read or written, so that a process that forks first has its own."""

    committed, turn, open_number, last_number, worker_failures, _used, done_number, unbatched = map(Cell, range(1, 9))
    on_trial, kept, returned, trial_since_ms, crashes, ended, untried = map(Cell, range(ON_TRIAL, 16))

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> SharedState:
        """Map it now, and return itself; raises what mapping it raises."""
        self.word  # noqa: B018 - it is mapped for that
        return self

    @functools.cached_property
    def cells(self) -> memoryview:
        """Map the file. Raises `LedgerError`: it is something else."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Really allocated: writing into the hole of a sparse file on a full disk would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, _SIZE_BYTES)
            cells = memoryview(mmap.mmap(descriptor, _SIZE_BYTES)).cast("Q")
        finally:
            os.close(descriptor)
        if cells[_IDENTITY] not in (0, _MAGIC):
            raise LedgerError(f"{self._path}: expected a commit word, found something else", hint="move the store away")
        cells[_IDENTITY] = _MAGIC
        return cells

    @functools.cached_property
    def word(self) -> memoryview:
        """The cell of the commit word alone, for those who read it with every request."""
        return self.cells[_COMMITTED : _COMMITTED + 1]

    @property
    def used_rows(self) -> int:
        """How many rows were ever used."""
        return min(self._used, ROWS)

    def next_turn(self) -> None:
        """Have the workers look."""
        self.turn += 1

    def read_row(self, index: int) -> Row:
        """Read one worker's row."""
        start = _FIRST_ROW + index * _ROW_CELLS
        return Row(*self.cells[start : start + 5])

    def write_row(self, index: int, row: Row) -> None:
        """Write one worker's row; only the worker that has claimed it does."""
        start = _FIRST_ROW + index * _ROW_CELLS
        for offset, value in ((_PID, row.pid), (_PREPARING, row.preparing), (_LIVE, row.live), (_PARENT, row.parent)):
            self.cells[start + offset] = value
        self.cells[start + _PREPARED] = row.prepared  # last: whoever sees "prepared" may commit at once
        self._used = max(self._used, index + 1)


class Survey(NamedTuple):
    """All rows that were ever used, by index: of living workers, and of those that ended without leaving."""

    alive: dict[int, Row]
    dead: dict[int, Row]


class Membership:
    """The workers of one host, seen by one of them or by a command."""

    def __init__(self, directory: Path, shared_state: SharedState) -> None:
        self._directory, self._shared_state = directory, shared_state
        self._index: int | None = None
        self._descriptor: int | None = None

    @property
    def is_joined(self) -> bool:
        """Whether this process has a row."""
        return self._index is not None

    @property
    def index(self) -> int:
        """The place of this process's row; 0 where it has none."""
        return self._index or 0

    @property
    def live(self) -> int:
        """The generation in this process's row."""
        return self._shared_state.read_row(self.index).live

    def survey(self) -> Survey:
        """Look at all rows."""
        alive: dict[int, Row] = {}
        dead: dict[int, Row] = {}
        for index in range(self._shared_state.used_rows):
            row = self._shared_state.read_row(index)
            if index == self._index or durable_files.is_held(self._directory / str(index)):
                alive[index] = row
            elif row.pid:
                dead[index] = row
        return Survey(alive, dead)

    def all_prepared(self, number: int) -> bool:
        """Whether a proposal is prepared by every row; the kernel is not asked which workers are alive."""
        rows = (self._shared_state.read_row(index) for index in range(self._shared_state.used_rows))
        return all(row.prepared == number for row in rows if row.pid)

    def join(self, live: int) -> None:
        """Claim a free row for this process. Raises `LedgerError`: all rows are taken."""
        # Last those of the dead: until somebody reaps them they are evidence.
        for index in sorted(range(ROWS), key=lambda index: self._shared_state.read_row(index).pid != 0):
            descriptor = durable_files.claim(self._directory / str(index))
            if descriptor is not None:
                self._index, self._descriptor = index, descriptor
                # A child that the model's code forks would hold the lock beyond this worker's end.
                os.register_at_fork(after_in_child=self._let_go)
                self._shared_state.write_row(index, Row(pid=os.getpid(), live=live, parent=os.getppid()))
                return
        raise LedgerError(f"{self._directory}: expected at most {ROWS} workers, found more")

    def leave(self) -> None:
        """Give the row back; a worker that ends in order is not a dead one."""
        if self._index is not None:
            self._shared_state.write_row(self._index, Row())
        self._let_go()

    def update(self, **changed: int) -> None:
        """Change this worker's row."""
        if self._index is not None:
            self._shared_state.write_row(self._index, replace(self._shared_state.read_row(self._index), **changed))

    def _let_go(self) -> None:
        self._index = None
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
