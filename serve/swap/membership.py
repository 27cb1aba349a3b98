"""The living workers of a host, and what each has prepared.

A worker claims a row of the commit word's file by locking `<store>/workers/<row>`. The kernel releases that lock when
the process ends, however it ends, so no worker waits for a dead one, and a slow one is never taken for dead.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from serve.errors import LedgerError
from serve.store import host_lock
from serve.swap.shared_state import ROWS, Row, SharedState


@dataclass(frozen=True)
class Survey:
    """All rows that were ever used.

    Args:
        alive: rows of living workers, by index.
        dead: rows whose worker has ended without leaving, by index.
    """

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
            if index == self._index or host_lock.is_held(self._directory / str(index)):
                alive[index] = row
            elif row.pid:
                dead[index] = row
        return Survey(alive, dead)

    def all_prepared(self, number: int) -> bool:
        """Whether a proposal is prepared by every row; the kernel is not asked which workers are alive."""
        rows = (self._shared_state.read_row(index) for index in range(self._shared_state.used_rows))
        return all(row.prepared == number for row in rows if row.pid)

    def join(self, live: int) -> None:
        """Claim the first free row for this process.

        Args:
            live: the generation that it answers with, or 0.

        Raises:
            OSError: the lock files cannot be written.
            LedgerError: all rows are taken.
        """
        for index in range(ROWS):
            descriptor = host_lock.claim(self._directory / str(index))
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

    def clear(self, index: int) -> None:
        """Forget a dead worker."""
        self._shared_state.write_row(index, Row())

    def _let_go(self) -> None:
        self._index = None
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
