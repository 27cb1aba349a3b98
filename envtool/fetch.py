"""Proven files: every byte that envtool uses is hashed before anything else sees it.

A file is wanted by its sha256 and may be had from several URLs. It is streamed into a content-addressed cache that
processes share: hashed while it comes, continued where a broken download stopped, renamed into place only when its
hash is right. A file that is in the cache already is hashed again, since a cache is only a directory that anybody may
have edited.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from envtool import network
from envtool.errors import HashMismatchError, NetworkError
from envtool.files import sync_directory
from envtool.network import TransferError

ATTEMPTS_PER_URL = 4
_JOBS = 8
_MAX_WAIT_S = 60.0


@dataclass(frozen=True)
class Wanted:
    """A file by its content.

    Args:
        name: The file name that the content goes by, kept in the cache because installers read it.
        sha256: The hash of the content, 64 lower-case hexadecimal digits.
        urls: Where to look, the best place first.
        size_bytes: The size of the content, where it is known.
    """

    name: str
    sha256: str
    urls: tuple[str, ...]
    size_bytes: int | None = None


class Progress(Protocol):
    """Something that shows how far a download is."""

    def advance(self, amount: int) -> None:
        """Count so many more bytes; a negative number takes them back."""


class Cache:
    """The content-addressed directory of proven files.

    Args:
        root: Its place; made when the first file is stored.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, wanted: Wanted) -> Path:
        """Where the content is when it has been fetched."""
        return self.root / "sha256" / wanted.sha256[:2] / wanted.sha256 / wanted.name

    def partial(self, wanted: Wanted) -> Path:
        """Where the content grows until it is whole."""
        return self.root / "partial" / wanted.sha256

    def find(self, wanted: Wanted) -> Path | None:
        """The file, if it is in the cache and its bytes are still the right ones; a wrong one is removed."""
        path = self.path(wanted)
        if not path.is_file():
            return None
        if _sha256_of(path) == wanted.sha256:
            return path
        path.unlink()
        return None

    def store(self, wanted: Wanted) -> Path:
        """Move the whole and proven partial file to its place."""
        path = self.path(wanted)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.partial(wanted).replace(path)
        sync_directory(path.parent)
        return path


def fetch(wanted: Iterable[Wanted], cache: Cache, progress: Progress) -> dict[Wanted, Path]:
    """Bring files into the cache, several at a time, each from the first URL that gives the right bytes.

    Args:
        wanted: The files; the same one twice is fetched once.
        cache: Where they go.
        progress: Told of every byte that is proven or on its way.

    Returns:
        The path of each file.

    Raises:
        NetworkError: A file could not be had; every URL is named with its own reason.
        HashMismatchError: The only URL of a file gave other bytes.
    """
    distinct = list(dict.fromkeys(wanted))
    stop = threading.Event()
    with ThreadPoolExecutor(_JOBS) as pool:
        futures = {pool.submit(_fetch_one, each, cache, progress, stop): each for each in distinct}
        try:
            return {futures[done]: done.result() for done in as_completed(futures)}
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_one(wanted: Wanted, cache: Cache, progress: Progress, stop: threading.Event) -> Path:
    partial = cache.partial(wanted)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{partial}.lock"):
        found = cache.find(wanted)
        if found:
            progress.advance(found.stat().st_size)
            return found
        failures = []
        for url in wanted.urls:
            failure = _try_url(url, wanted, partial, progress, stop)
            if failure is None:
                return cache.store(wanted)
            failures.append((url, failure))
    raise _unavailable(wanted, failures)


def _try_url(
    url: str, wanted: Wanted, partial: Path, progress: Progress, stop: threading.Event
) -> NetworkError | HashMismatchError | None:
    for attempt in range(1, ATTEMPTS_PER_URL + 1):
        try:
            _download(url, wanted, partial, progress, stop)
        except TransferError as error:
            wait_s = wait_before_retry_s(error, attempt)
            if wait_s is None or stop.wait(wait_s):
                return error
        except HashMismatchError as error:
            return error
        else:
            return None
    raise AssertionError("unreachable: the last attempt never waits")


def wait_before_retry_s(error: TransferError, attempt: int) -> float | None:
    """How long to wait before asking the same URL again, in seconds, or None to give it up.

    Exponential with full jitter, so that a hundred machines that failed together do not come back together; a server
    that says `Retry-After` is obeyed up to a minute, past that another place is quicker.
    """
    if not error.is_transient or attempt >= ATTEMPTS_PER_URL:
        return None
    if error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= _MAX_WAIT_S else None
    return random.uniform(0, 0.5 * 2**attempt)  # noqa: S311 - jitter, not a secret


def _download(url: str, wanted: Wanted, partial: Path, progress: Progress, stop: threading.Event) -> None:
    digest, have = _hash_so_far(partial)
    if have and digest.hexdigest() == wanted.sha256:
        progress.advance(have)
        return
    with network.get(url, offset=have) as body:
        if body.offset != have:
            digest, have = hashlib.sha256(), 0
        _refuse_other_size(wanted, body.total_bytes)
        with partial.open("r+b" if have else "wb") as file:
            file.seek(have)
            progress.advance(have)
            counted = have
            try:
                for chunk in body.chunks:
                    if stop.is_set():
                        raise TransferError("stopped", is_transient=False)
                    file.write(chunk)
                    digest.update(chunk)
                    progress.advance(len(chunk))
                    counted += len(chunk)
            except BaseException:
                progress.advance(-counted)
                raise
            file.flush()
            os.fsync(file.fileno())
    if digest.hexdigest() != wanted.sha256:
        progress.advance(-counted)
        partial.unlink()
        raise HashMismatchError(wanted.name, f"sha256:{wanted.sha256}", f"sha256:{digest.hexdigest()}")


def _refuse_other_size(wanted: Wanted, total_bytes: int | None) -> None:
    if wanted.size_bytes is not None and total_bytes is not None and total_bytes != wanted.size_bytes:
        raise HashMismatchError(wanted.name, f"{wanted.size_bytes} bytes", f"{total_bytes} bytes")


def _hash_so_far(partial: Path) -> tuple[hashlib._Hash, int]:
    digest = hashlib.sha256()
    if not partial.exists():
        return digest, 0
    return digest, _update_from(digest, partial)


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    _update_from(digest, path)
    return digest.hexdigest()


def _update_from(digest: hashlib._Hash, path: Path) -> int:
    count = 0
    with path.open("rb") as file:
        while chunk := file.read(network.CHUNK_BYTES):
            digest.update(chunk)
            count += len(chunk)
    return count


def _unavailable(wanted: Wanted, failures: Sequence[tuple[str, NetworkError | HashMismatchError]]) -> Exception:
    url, mismatch = failures[0]
    if len(failures) == 1 and isinstance(mismatch, HashMismatchError):
        return HashMismatchError(
            network.without_credentials(url),
            mismatch.expected,
            mismatch.actual,
            "the file was damaged or replaced after it was locked; nothing was installed",
        )
    reasons = "".join(f"\n  {network.without_credentials(url)}: {error.message}" for url, error in failures)
    return NetworkError(
        f"{wanted.name} could not be had from any of its places:{reasons}",
        "check the network and run again; what has arrived is kept",
    )
