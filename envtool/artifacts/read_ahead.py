"""A stream that is read in a thread of its own, so that decompressing goes on while what came out is hashed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

_PIECE_BYTES = 1 << 20
_PIECES = 4


class ReadAhead:
    """What a thread reads from another stream, in order."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(_PIECES)
        self._stopped = threading.Event()
        self._left = memoryview(b"")
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        while not self._left and not self._is_over:
            piece = self._pieces.get()
            if isinstance(piece, BaseException):
                self._is_over = True
                raise piece
            self._is_over = not piece
            self._left = memoryview(piece)
        found = bytes(self._left[:size])
        self._left = self._left[size:]
        return found

    def stop(self) -> None:
        """End the thread, whatever has not been read."""
        self._stopped.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):  # it may be waiting for room
                self._pieces.get_nowait()
            self._thread.join(0.001)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                piece = self._source.read(_PIECE_BYTES)
                self._pieces.put(piece)
                if not piece:
                    return
        except BaseException as error:  # raised again where it is read
            self._pieces.put(error)


@contextmanager
def read_ahead(source: IO[bytes]) -> Iterator[ReadAhead]:
    """Read a stream ahead until the block ends; it must not be closed before."""
    stream = ReadAhead(source)
    try:
        yield stream
    finally:
        stream.stop()
