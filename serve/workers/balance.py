"""Connections go to the worker that has less to do, so that no request waits behind another while a worker is idle.

The kernel gives a new connection to any worker that accepts, and a connection that is kept stays there. So a worker
that has two more than another of something gives one away, as a descriptor in a mailbox of the master (SCM_RIGHTS):

- of open connections: a new one, at once;
- of requests in hand, while runs are long: one that has just begun, with its connection and what was read of it;
- of connections that ask: ten times a second half of the difference, at their next requests.

`where` is the rule for all three. A connection is given away only between two requests and not under TLS. What lies in
a mailbox outlives its worker, as the master holds both ends: `Neighbours.clear` hands it on.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from collections.abc import Collection, Mapping
from typing import Any, Callable

_CELLS = 4
_PID, OPEN, IN_HAND, ASKING = range(_CELLS)
_MARGIN = 2  # a move takes one here and adds one there, so a difference of one would only be moved about
_LETTER_BYTES = 32 * 1024
_TICKS_BETWEEN = 2
_MOST_LETTERS = 16


def where(loads: Mapping[int, int], here: int) -> int | None:
    """Choose, by the loads of those that take connections, who takes one over from `here`; `None` for nobody."""
    least = min((place for place in loads if place != here), key=lambda place: (loads[place], place), default=None)
    return least if least is not None and loads[least] + _MARGIN <= loads.get(here, 0) else None


class Neighbours:
    """The places of all workers, more than there are of them, as a reload has two sets; made in the master."""

    def __init__(self, count: int) -> None:
        self.places = range(count)
        self._shared = mmap.mmap(-1, max(mmap.PAGESIZE, 8 * _CELLS * count))
        self.cells = memoryview(self._shared).cast("Q")
        self.boxes = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in self.places]
        for end in (end for pair in self.boxes for end in pair):
            end.setblocking(False)

    def choose(self, taken: Collection[int | None]) -> int | None:
        """Choose a place for a worker that is about to be forked; `None` where there is none left."""
        return next((place for place in self.places if place not in taken), None)

    def loads(self, cell: int) -> dict[int, int]:
        """Return one of the loads of each worker that takes connections."""
        cells = self.cells
        return {place: cells[place * _CELLS + cell] for place in self.places if cells[place * _CELLS]}

    def clear(self, place: int) -> None:
        """Forget a worker that has ended, and hand on what was still in its mailbox."""
        for cell in range(_CELLS):
            self.cells[place * _CELLS + cell] = 0
        others = list(self.loads(OPEN))
        while others:
            try:
                letter, descriptors, _, _ = socket.recv_fds(self.boxes[place][0], 2 * _LETTER_BYTES, 2)
            except OSError:
                return
            with contextlib.suppress(OSError):
                socket.send_fds(self.boxes[others[0]][1], [letter], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


class Balance:
    """One worker among its neighbours; `is_long`: whether a request should not wait behind a run of the last length."""

    def __init__(self, neighbours: Neighbours, place: int, is_long: Callable[[], bool]) -> None:
        self._neighbours, self._place, self._is_long = neighbours, place, is_long
        self._mine = [os.getpid(), 0, 0, 0]
        self.tick = self.asking = self._surplus = self._pause = 0
        self.is_watching = False
        self.box = neighbours.boxes[place][0]

    def join(self) -> None:
        """Take connections from now on."""
        self._write(_PID)

    def leave(self) -> None:
        """Take none any more, and give none away."""
        self.is_watching = False
        self._neighbours.cells[self._place * _CELLS + _PID] = 0

    def count(self, cell: int, change: int) -> None:
        """Note that there is one more, or one fewer, of `OPEN` connections or of requests `IN_HAND`."""
        self._mine[cell] += change
        self._write(cell)

    def look(self) -> None:
        """Compare how many connections asked here and there; ten times a second."""
        self.tick += 1
        self._mine[ASKING], self.asking, self._surplus = self.asking, 0, 0
        self._write(ASKING)
        self._pause = max(0, self._pause - 1)
        loads = self._neighbours.loads(ASKING)
        least = where(loads, self._place)
        if least is not None and not self._pause:
            self._surplus, self._pause = (loads[self._place] - loads[least]) // 2, _TICKS_BETWEEN
        self.is_watching = self._place in loads and len(loads) > 1 and (self._surplus > 0 or self._is_long())

    def place_for_new(self) -> int | None:
        """Return where a connection that was just accepted should go; `None` to keep it."""
        return self._find(OPEN) if self._mine[OPEN] >= _MARGIN else None

    def place_for_next(self) -> int | None:
        """Return where a connection should go whose next request has just begun and is counted; `None` to keep it."""
        found = self._find(IN_HAND) if self._mine[IN_HAND] >= _MARGIN else None
        if found is None and self._surplus > 0:
            self._surplus -= 1
            found = self._find(ASKING)
            if found is not None:
                self.count(ASKING, -1)
        return found

    def _find(self, cell: int) -> int | None:
        found = where(self._neighbours.loads(cell), self._place)
        if found is not None:  # until it counts for itself what it has taken
            self._neighbours.cells[found * _CELLS + cell] += 1
        return found

    def give(self, place: int, transport: Any, data: bytes) -> bool:
        """Give a connection away with what was read of it; false where it has to stay."""
        descriptors, held, letter = [transport.get_extra_info("socket").fileno()], -1, b"b" + data
        try:
            if len(data) > _LETTER_BYTES:
                held = os.memfd_create("begun", os.MFD_CLOEXEC)
                os.write(held, data)
                descriptors, letter = [*descriptors, held], b"f"
            socket.send_fds(self._neighbours.boxes[place][1], [letter], descriptors)
        except OSError:  # the mailbox is full
            return False
        finally:
            if held >= 0:
                os.close(held)
        transport.abort()
        return True

    def receive(self, take: Callable[[socket.socket, bytes], None]) -> None:
        """Take what was given to this worker."""
        for _ in range(_MOST_LETTERS):
            try:
                letter, descriptors, _, _ = socket.recv_fds(self.box, 2 * _LETTER_BYTES, 2)
            except OSError:
                return
            data = letter[1:]
            if letter[:1] == b"f":
                data = os.pread(descriptors[1], os.fstat(descriptors[1]).st_size, 0)
                os.close(descriptors[1])
            take(socket.socket(fileno=descriptors[0]), data)

    def _write(self, cell: int) -> None:
        self._neighbours.cells[self._place * _CELLS + cell] = max(0, self._mine[cell])
