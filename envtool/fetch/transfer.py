"""One attempt to get one file from one place, going on where an earlier one stopped.

Bytes are hashed while they come. Whatever goes wrong, the growing file holds a beginning that the next attempt, at this
place or another, can go on with, or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from envtool.atomic_files import sync_directory
from envtool.errors import HashMismatchError
from envtool.fetch import client
from envtool.fetch.archive_cache import Cache, Wanted, update_from
from envtool.fetch.client import Body
from envtool.fetch.timeouts import Timeouts
from envtool.fetch.transfer_error import RangeError, TransferError


@dataclass(frozen=True)
class Progress:
    """The listener of a transfer."""

    advance: Callable[[int], None]
    expect: Callable[[int], None]
    is_stopped: Callable[[], bool]


class Transfer:
    """The growing of one file over all attempts."""

    def __init__(self, wanted: Wanted, path: Path, cache: Cache, progress: Progress) -> None:
        self._wanted, self._path, self._cache, self._progress = wanted, path, cache, progress
        self._digest = hashlib.sha256()
        self._have = 0

    def resume(self) -> bool:
        """Take up what an earlier run has left; whether that is the whole file already."""
        if self._path.exists():
            self._digest = hashlib.sha256()
            with self._cache.storing(self._wanted, None):
                self._have = update_from(self._digest, self._path)
            self._progress.advance(self._have)
        if self._is_right():
            with self._cache.storing(self._wanted, None):
                sync_directory(self._path)  # its writer was stopped before it could
            return True
        if self._have and self._have >= (self._wanted.size_bytes or self._have + 1):
            self._start_over()
        return False

    @property
    def have_bytes(self) -> int:
        """How much of the file is there."""
        return self._have

    def attempt(self, url: str, patience: Timeouts) -> None:
        """Ask one place for what is missing.

        Raises:
            TransferError: the place did not give all of it; what it gave is kept.
        """
        try:
            self._stream(url, patience)
        except (RangeError, _PatchworkError):
            # What is wrong with a file that was put together may be the fault of either part, so a place is not
            # blamed before it has given the whole.
            self._start_over()
            self._stream(url, patience)

    def _stream(self, url: str, patience: Timeouts) -> None:
        with client.get(url, self._have, patience) as body:
            self._refuse_other_size(body.total_bytes)
            if body.offset != self._have:
                self._start_over()
            self._make_room(body.total_bytes)
            with self._writing(), self._path.open("r+b" if self._have else "wb") as file:
                self._cache.share(self._path)
                file.seek(self._have)
                self._receive(body, file)
                if self._is_right():
                    os.fsync(file.fileno())
                    return
        self._refuse(body)

    def _receive(self, body: Body, file: BinaryIO) -> None:
        if body.total_bytes is not None:
            self._progress.expect(body.total_bytes)
        for chunk in body.chunks:
            if self._progress.is_stopped():
                raise TransferError("stopped", is_transient=False)
            file.write(chunk)
            self._digest.update(chunk)
            self._have += len(chunk)
            self._progress.advance(len(chunk))
            if self._have > (self._wanted.size_bytes or self._have):
                return  # more than there should be, perhaps without end

    def _refuse(self, body: Body) -> None:
        expected_bytes, have = self._wanted.size_bytes or body.total_bytes, self._have
        if expected_bytes is not None and have < expected_bytes:
            raise TransferError(f"ended after {have:,} of {expected_bytes:,} bytes", is_transient=True)
        actual = self._digest.hexdigest()
        self._start_over()
        if body.offset:
            raise _PatchworkError
        if self._wanted.size_bytes not in (None, have):
            raise HashMismatchError(self._wanted.name, f"{self._wanted.size_bytes} bytes", f"{have} bytes or more")
        raise HashMismatchError(self._wanted.name, f"sha256:{self._wanted.sha256}", f"sha256:{actual}")

    def _is_right(self) -> bool:
        return self._digest.hexdigest() == self._wanted.sha256

    def _refuse_other_size(self, total_bytes: int | None) -> None:
        size_bytes = self._wanted.size_bytes
        if size_bytes is not None and total_bytes is not None and total_bytes != size_bytes:
            raise HashMismatchError(self._wanted.name, f"{size_bytes} bytes", f"{total_bytes} bytes")

    def _make_room(self, total_bytes: int | None) -> None:
        total = self._wanted.size_bytes or total_bytes
        if total is not None and total - self._have > self._cache.free_bytes():
            raise self._cache.no_space(self._wanted, total - self._have)

    def _start_over(self) -> None:
        self._progress.advance(-self._have)
        self._digest, self._have = hashlib.sha256(), 0
        with self._cache.storing(self._wanted, None), contextlib.suppress(FileNotFoundError):
            os.truncate(self._path, 0)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        size_bytes = self._wanted.size_bytes
        return self._cache.storing(self._wanted, None if size_bytes is None else size_bytes - self._have)


class _PatchworkError(Exception):
    """The parts of a file, each from another attempt, make a wrong whole."""
