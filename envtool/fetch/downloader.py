"""Proven files: every byte that envtool uses is hashed before anything else sees it. A file comes from the first of its
places that gives the right bytes; whatever goes wrong, what has grown is a beginning that the next attempt can go on
with."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO

from envtool.atomic_files import sync_directory
from envtool.console import Task
from envtool.errors import CacheError, EnvtoolError, HashMismatchError, NetworkError
from envtool.fetch import client, failover
from envtool.fetch.archive_cache import Cache, Wanted, update_from
from envtool.fetch.client import Body
from envtool.fetch.credentials import without_credentials, without_secrets
from envtool.fetch.failover import Failure, HostHealth, Place, RangeError, Timeouts, TransferError, ask_in_turn


class Transfer:
    """The growing of one file over all attempts."""

    def __init__(self, wanted: Wanted, path: Path, cache: Cache, tally: _Tally, stopped: threading.Event) -> None:
        self._wanted, self._path, self._cache, self._tally, self._stopped = wanted, path, cache, tally, stopped
        self._digest = hashlib.sha256()
        self.have_bytes = 0

    def resume(self) -> bool:
        """Take up what an earlier run has left; whether that is the whole file already."""
        if self._path.exists():
            with self._cache.storing(self._wanted, None):
                self.have_bytes = update_from(self._digest, self._path)
            self._advance(self.have_bytes)
        if self._is_right():
            with self._cache.storing(self._wanted, None):
                sync_directory(self._path)  # its writer was stopped before it could
            return True
        if self.have_bytes and self.have_bytes >= (self._wanted.size_bytes or self.have_bytes + 1):
            self._start_over()
        return False

    def attempt(self, url: str, patience: Timeouts) -> None:
        """Ask one place for what is missing. Raises TransferError if it did not give all of it; the rest is kept."""
        try:
            self._stream(url, patience)
        except (RangeError, _PatchworkError):
            # What is wrong with a file that was put together may be the fault of either part, so a place is not
            # blamed before it has given the whole.
            self._start_over()
            self._stream(url, patience)

    def _stream(self, url: str, patience: Timeouts) -> None:
        size_bytes = self._wanted.size_bytes
        with client.get(url, self.have_bytes, patience) as body:
            if size_bytes is not None and body.total_bytes not in (None, size_bytes):
                raise HashMismatchError(self._wanted.name, f"{size_bytes} bytes", f"{body.total_bytes} bytes")
            if body.offset != self.have_bytes:
                self._start_over()
            total_bytes = size_bytes or body.total_bytes
            if total_bytes is not None and total_bytes - self.have_bytes > self._cache.free_bytes():
                raise self._cache.no_space(self._wanted, total_bytes - self.have_bytes)
            need_bytes = None if size_bytes is None else size_bytes - self.have_bytes
            mode = "r+b" if self.have_bytes else "wb"
            with self._cache.storing(self._wanted, need_bytes), self._path.open(mode) as file:
                self._cache.share(self._path)
                file.seek(self.have_bytes)
                self._receive(body, file)
                if self._is_right():
                    os.fsync(file.fileno())
                    return
        self._refuse(body)

    def _receive(self, body: Body, file: IO[bytes]) -> None:
        if body.total_bytes is not None:
            self._tally.expect(self._wanted, body.total_bytes)
        for chunk in body.chunks:
            if self._stopped.is_set():
                raise TransferError("stopped", is_transient=False)
            file.write(chunk)
            self._digest.update(chunk)
            self.have_bytes += len(chunk)
            self._advance(len(chunk))
            if self.have_bytes > (self._wanted.size_bytes or self.have_bytes):
                return  # more than there should be, perhaps without end

    def _refuse(self, body: Body) -> None:
        expected_bytes, have = self._wanted.size_bytes or body.total_bytes, self.have_bytes
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

    def _start_over(self) -> None:
        self._advance(-self.have_bytes)
        self._digest, self.have_bytes = hashlib.sha256(), 0
        with self._cache.storing(self._wanted, None), contextlib.suppress(FileNotFoundError):
            os.truncate(self._path, 0)

    def _advance(self, amount: int) -> None:
        if not self._stopped.is_set():
            self._tally.advance(amount)


class _PatchworkError(Exception):
    """The parts of a file, each from another attempt, make a wrong whole."""


_JOBS = 8
# An attempt that brings less is no better than one that brings nothing: a place that breaks off after each packet
# would be asked for ever.
_WORTH_BYTES = 64 * 1024


def fetch(
    wanted: Iterable[Wanted], cache: Cache, progress: Task, *, patience: failover.Timeouts | None = None,
    is_offline: bool = False,
) -> dict[Wanted, Path]:  # fmt: skip
    """Bring files into the cache, several at a time, each from the first place that gives the right bytes. Raises
    NetworkError if a file could not be downloaded (each place has its own reason), HashMismatchError if its only place
    gave other bytes, CacheError if the cache cannot be written or, offline, lacks some; all are listed."""
    distinct = list(dict.fromkeys(wanted))
    run = _Run(cache, _Tally(progress, distinct), patience or failover.configured_timeouts())
    pool = ThreadPoolExecutor(_JOBS, thread_name_prefix="fetch")
    try:
        if is_offline:
            found = {each: path for each, path in zip(distinct, pool.map(run.find, distinct)) if path is not None}
            if missing := sorted(each.name for each in distinct if each not in found):
                raise CacheError(
                    f"{len(missing)} of {len(distinct)} files are not in the cache {cache.root}, or are damaged there:"
                    + "".join(f"\n  {name}" for name in missing),
                    "run the same command once without --offline, where there is a network",
                )
            return found
        # The largest first, so that the last minute is not one thread's alone.
        ordered = sorted(distinct, key=lambda each: -(each.size_bytes or 0))
        futures = {each: pool.submit(run.fetch, each) for each in ordered}
        for done in as_completed(futures.values()):
            done.result()
        return {each: futures[each].result() for each in distinct}
    finally:
        # Not waited for: a thread may be in a read that takes its whole time-out to fail.
        run.stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


class _Run:
    """What the threads of one fetch share."""

    def __init__(self, cache: Cache, tally: _Tally, patience: failover.Timeouts) -> None:
        self.stopped = threading.Event()
        self._cache, self._tally, self._patience = cache, tally, patience
        self._hosts = HostHealth()

    def find(self, wanted: Wanted) -> Path | None:
        found = self._cache.find(wanted)
        if found:
            size_bytes = found.stat().st_size
            self._tally.expect(wanted, size_bytes)
            self._tally.advance(size_bytes)
        return found

    def fetch(self, wanted: Wanted) -> Path:
        found = self.find(wanted)
        if found:
            return found
        with self._cache.growing(wanted, self._patience.read_timeout_s, self.stopped.is_set) as partial:
            found = self.find(wanted)  # another process may have been quicker
            if found:
                return found
            if partial is None:
                raise _stopped()
            growing = Transfer(wanted, partial, self._cache, self._tally, self.stopped)
            if not growing.resume():
                ask = functools.partial(self._ask, growing)
                failed = ask_in_turn(wanted.urls, ask, self._wait, self._hosts, self._patience)
                if failed or not wanted.urls:
                    raise _unavailable(wanted, failed)
            self._tally.expect(wanted, growing.have_bytes)
            return self._cache.store(wanted, partial)

    def _wait(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise _stopped()

    def _ask(self, growing: Transfer, url: str, has_alternative: bool) -> Failure | None:
        patience = self._patience if has_alternative else self._patience._replace(min_bytes_per_s=0.0)
        before = growing.have_bytes
        try:
            growing.attempt(url, patience)
        except TransferError as error:
            if self.stopped.is_set():
                raise
            self._hosts.note(url, error, time.monotonic())
            brought_bytes = growing.have_bytes - before >= _WORTH_BYTES
            return Failure(error.reason, error.is_transient, error.retry_after_s, brought_bytes)
        except HashMismatchError as error:
            return Failure(f"expected {error.expected}, got {error.actual}", is_transient=False)
        self._hosts.note(url, None, time.monotonic())
        return None


class _Tally:
    """Adds up what all threads do, one at a time."""

    def __init__(self, progress: Task, wanted: Sequence[Wanted]) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._sizes = {each: each.size_bytes for each in wanted if each.size_bytes}
        self._show()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._progress.advance(amount)

    def expect(self, wanted: Wanted, size_bytes: int) -> None:
        with self._lock:
            if self._sizes.get(wanted) != size_bytes:
                self._sizes[wanted] = size_bytes
                self._show()

    def _show(self) -> None:
        if self._sizes:
            self._progress.expect(sum(self._sizes.values()))


def _stopped() -> TransferError:
    return TransferError("stopped, because another file could not be downloaded", is_transient=False)


def _unavailable(wanted: Wanted, places: Sequence[Place]) -> EnvtoolError:
    shown = [(without_credentials(each.url), without_secrets(each.reason or "not asked")) for each in places]
    if len(shown) == 1 and shown[0][1].startswith("expected "):
        expected, _, actual = shown[0][1].removeprefix("expected ").partition(", got ")
        hint = "the file was damaged or replaced after it was locked; nothing was installed"
        place = shown[0][0] if shown[0][0].endswith(wanted.name) else f"{wanted.name} in {shown[0][0]}"
        return HashMismatchError(place, expected, actual, hint)
    reasons = "".join(f"\n  {url}: {reason}" for url, reason in shown) or "\n  no place is known"
    return NetworkError(
        f"{wanted.name} could not be downloaded from any of its places:{reasons}",
        "check the network and run again, what has arrived is kept; envtool mirror probe finds places that work",
    )
