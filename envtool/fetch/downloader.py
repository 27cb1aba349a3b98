"""Proven files: every byte that envtool uses is hashed before anything else sees it.

A file is wanted by its sha256 and may be in several places; it comes from the first that gives the right bytes.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from envtool.errors import CacheError, EnvtoolError, HashMismatchError, NetworkError
from envtool.fetch import timeouts, transfer
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.authentication import without_credentials, without_secrets
from envtool.fetch.failover import HostHealth, ask_in_turn
from envtool.fetch.failover_policy import Failure, Place
from envtool.fetch.transfer_error import TransferError

_JOBS = 8
# An attempt that brings less is no better than one that brings nothing: a place that breaks off after each packet
# would be asked for ever.
_WORTH_BYTES = 64 * 1024


class Progress(Protocol):
    """Something that shows how far a download is."""

    def advance(self, amount: int) -> None:
        """Count so many more bytes; a negative number takes them back."""


@runtime_checkable
class _Expecting(Protocol):
    def expect(self, total: int) -> None: ...


def fetch(
    wanted: Iterable[Wanted],
    cache: Cache,
    progress: Progress,
    *,
    patience: timeouts.Timeouts | None = None,
    is_offline: bool = False,
) -> dict[Wanted, Path]:
    """Bring files into the cache, several at a time, each from the first place that gives the right bytes.

    Args:
        progress: gets every byte that is proven or on its way, and, if it has `expect`, how many there will be.

    Raises:
        NetworkError: a file could not be downloaded; every place is named with its own reason.
        HashMismatchError: the only place of a file gave other bytes.
        CacheError: the cache cannot be written, or, offline, lacks something; all of it is listed.
    """
    distinct = list(dict.fromkeys(wanted))
    run = _Run(cache, _Tally(progress, distinct), patience or timeouts.configured())
    pool = ThreadPoolExecutor(_JOBS, thread_name_prefix="fetch")
    try:
        if is_offline:
            return _from_cache(distinct, list(pool.map(run.find, distinct)), cache)
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


def _from_cache(wanted: Sequence[Wanted], found: Sequence[Path | None], cache: Cache) -> dict[Wanted, Path]:
    missing = [each.name for each, path in zip(wanted, found) if path is None]
    if missing:
        names = "".join(f"\n  {name}" for name in sorted(missing))
        raise CacheError(
            f"{len(missing)} of {len(wanted)} files are not in the cache {cache.root}, or are damaged there:{names}",
            "run the same command once without --offline, where there is a network",
        )
    return {each: path for each, path in zip(wanted, found) if path is not None}


class _Run:
    """What the threads of one fetch share."""

    def __init__(self, cache: Cache, tally: _Tally, patience: timeouts.Timeouts) -> None:
        self.stopped = threading.Event()
        self._cache, self._tally, self._patience = cache, tally, patience
        self._hosts = HostHealth()

    def find(self, wanted: Wanted) -> Path | None:
        """The file, if the cache has it."""
        found = self._cache.find(wanted)
        if found:
            self._tally.found(wanted, found.stat().st_size)
        return found

    def fetch(self, wanted: Wanted) -> Path:
        """The file, from the cache or from one of its places."""
        found = self.find(wanted)
        if found:
            return found
        with self._cache.growing(wanted, self._patience.read_timeout_s, self.stopped.is_set) as partial:
            found = self.find(wanted)  # another process may have been quicker
            if found:
                return found
            if partial is None:
                raise _stopped()
            growing = transfer.Transfer(wanted, partial, self._cache, self._progress(wanted))
            if not growing.resume():
                self._try_places(wanted, growing)
            self._tally.expect(wanted, growing.have_bytes)
            return self._cache.store(wanted, partial)

    def _try_places(self, wanted: Wanted, growing: transfer.Transfer) -> None:
        ask = functools.partial(self._ask, growing)
        failed = ask_in_turn(wanted.urls, ask, self._wait, self._hosts, self._patience)
        if failed or not wanted.urls:
            raise _unavailable(wanted, failed)

    def _wait(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise _stopped()

    def _ask(self, growing: transfer.Transfer, url: str, has_alternative: bool) -> Failure | None:
        patience = self._patience if has_alternative else replace(self._patience, min_bytes_per_s=0.0)
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

    def _progress(self, wanted: Wanted) -> transfer.Progress:
        return transfer.Progress(
            advance=lambda amount: None if self.stopped.is_set() else self._tally.advance(amount),
            expect=lambda size_bytes: self._tally.expect(wanted, size_bytes),
            is_stopped=self.stopped.is_set,
        )


class _Tally:
    """Adds up what all threads do, one at a time."""

    def __init__(self, progress: Progress, wanted: Sequence[Wanted]) -> None:
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

    def found(self, wanted: Wanted, size_bytes: int) -> None:
        self.expect(wanted, size_bytes)
        self.advance(size_bytes)

    def _show(self) -> None:
        if self._sizes and isinstance(self._progress, _Expecting):
            self._progress.expect(sum(size for size in self._sizes.values() if size))


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
