"""The gate of a host: may a request start now? One small file that all its workers map, and read with each request.

Shut or open it outlives whoever wrote it, so a worker that dies opens no gate. `serve.fleet.member` writes it."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from serve.fleet.messages import SHUT
from serve.swap.shared_state import Cell, SharedState

_FENCE, _LEASE_UNTIL, _INCARNATION, _ATTEMPT, _LEASE, _TTL_MS = range(1, 7)


class Gate(SharedState):
    """The gate of one model on one host; one that `is_leased` is open only while the host's lease runs."""

    # Fence: 0 open, `SHUT`, or the round that it is shut for. Incarnation: drawn at each start of the server. Attempt:
    # the number of the proposal that was handed on to the workers last.
    fence, incarnation, attempt = map(Cell, (_FENCE, _INCARNATION, _ATTEMPT))

    def __init__(self, root: Path, is_leased: bool) -> None:
        super().__init__(root / "fleet.cells")
        self._is_leased = is_leased

    def is_open(self) -> bool:
        """Whether a request may start. Asked before the generation is chosen: that is the request's start."""
        cells = self.cells
        if cells[_FENCE] or not cells[_INCARNATION]:
            return False
        # The clock that goes on while the machine sleeps (clock_gettime(2)).
        return not self._is_leased or time.clock_gettime_ns(time.CLOCK_BOOTTIME) <= cells[_LEASE_UNTIL]

    def is_out(self) -> bool:
        """Whether it is shut for another reason than a fence, which lasts for milliseconds."""
        return self.fence <= SHUT and not self.is_open()

    def start_over(self) -> None:
        """Shut it for a new incarnation of the host; no worker is alive."""
        self.fence = SHUT
        self.cells[_LEASE_UNTIL] = self.attempt = self.cells[_LEASE] = 0
        self.incarnation = secrets.randbits(53)  # JSON's numbers

    @property
    def lease(self) -> tuple[int, float]:
        """The host's lease and its length in seconds; the next holder of the lock goes on with it."""
        return self.cells[_LEASE], self.cells[_TTL_MS] / 1000

    @lease.setter
    def lease(self, lease: tuple[int, float]) -> None:
        self.cells[_LEASE], self.cells[_TTL_MS] = lease[0], int(lease[1] * 1000)

    def believe(self, until_s: float) -> None:
        """Take the lease to run until then, on CLOCK_BOOTTIME."""
        self.cells[_LEASE_UNTIL] = max(self.cells[_LEASE_UNTIL], int(until_s * 1e9))
