"""The speed of each mirror from here, measured with the very things that a lock needs.

Of each channel its repodata is asked for, which a mirror that lacks the channel has not; then the first megabytes of
an archive or wheel of the lock, which a mirror that lags behind has not. The order that follows is a pure function.
Out of scope: using it (`envtool.mirrors.selection`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from envtool.errors import EnvtoolError
from envtool.fetch import client
from envtool.fetch.timeouts import Timeouts
from envtool.fetch.transfer_error import TransferError
from envtool.mirrors.presets import Preset, channel_of, is_wheel_store

ORIGIN = "origin"
_SAMPLE_BYTES = 4_000_000
_SAMPLE_S = 2.0
_JOBS = 16
# What the estimate is made for: one archive of usual size.
_TYPICAL_BYTES = 10_000_000
_REPODATA = ("repodata.json.zst", "repodata.json")


@dataclass(frozen=True)
class Candidate:
    """One place to be measured.

    Args:
        subdir: the subdir whose repodata is asked for; empty for wheels.
        sample: a file of the lock, relative to the base.
    """

    name: str
    channel: str
    base: str
    subdir: str
    sample: str


@dataclass(frozen=True)
class Reading:
    """What was measured of one candidate."""

    name: str
    channel: str
    base: str
    latency_s: float | None = None
    bytes_per_s: float | None = None
    served_by: str | None = None
    reason: str | None = None

    @property
    def estimate_s(self) -> float | None:
        """How long a typical archive would take; None for a place that cannot be used."""
        if self.latency_s is None or not self.bytes_per_s:
            return None
        return self.latency_s + _TYPICAL_BYTES / self.bytes_per_s


def candidates(urls: Iterable[str], presets: Sequence[Preset]) -> list[Candidate]:
    """Every place that may have one of the channels of some canonical URLs, the origins included."""
    samples: dict[str, str] = {}
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            continue
        channel = channel_of(url)
        known = samples.get(channel)
        # The platform's own subdir rather than noarch: some mirrors lack platforms.
        if known is None or known.startswith("noarch/"):
            samples[channel] = url[len(channel) :]
    found = []
    for channel, sample in samples.items():
        subdir = "" if is_wheel_store(channel) else sample.partition("/")[0]
        places = {preset.name: base for preset in presets if (base := preset.mirror_of(channel))}
        found += [Candidate(name, channel, base, subdir, sample) for name, base in places.items()]
        found.append(Candidate(ORIGIN, channel, channel, subdir, sample))
    return found


def measure(places: Sequence[Candidate], limit_s: float) -> list[Reading]:
    """Measure every candidate, all at once."""
    pool = ThreadPoolExecutor(_JOBS, thread_name_prefix="probe")
    try:
        futures = [pool.submit(_measure, each, limit_s) for each in places]
        wait(futures, timeout=limit_s)
        return [_reading(each, future, limit_s) for each, future in zip(places, futures)]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def rank(readings: Sequence[Reading]) -> dict[str, tuple[str, ...]]:
    """The URLs to be used for each channel, the quickest first.

    A place that only sends on to the host of a quicker one is no independent fallback, so it comes after all that are.
    A place that answered nothing is left out; the origin is ranked like any other.
    """
    by_channel: dict[str, list[Reading]] = {}
    for each in sorted(readings, key=lambda reading: reading.estimate_s or 0.0):
        if each.estimate_s is not None:
            by_channel.setdefault(each.channel, []).append(each)
    return {channel: tuple(each.base for each in _independent_first(found)) for channel, found in by_channel.items()}


def _independent_first(readings: Sequence[Reading]) -> list[Reading]:
    first: dict[str | None, Reading] = {}
    again = [each for each in readings if first.setdefault(each.served_by, each) is not each]
    return [*first.values(), *again]


def _reading(candidate: Candidate, future: Future[Reading], limit_s: float) -> Reading:
    if future.done() and not future.cancelled():
        return future.result()
    return Reading(candidate.name, candidate.channel, candidate.base, reason=f"no answer in {limit_s:g} s")


def _measure(candidate: Candidate, limit_s: float) -> Reading:
    patience = Timeouts(connect_timeout_s=limit_s / 2, read_timeout_s=limit_s / 2)
    reading = Reading(candidate.name, candidate.channel, candidate.base)
    try:
        if candidate.subdir:
            latency_s, host = _first_repodata(candidate, patience)
            reading = replace(reading, latency_s=latency_s, served_by=host)
        return _sample(candidate, reading, patience)
    except EnvtoolError as error:
        return replace(reading, reason=error.message)


def _first_repodata(candidate: Candidate, patience: Timeouts) -> tuple[float, str]:
    for name in _REPODATA:
        try:
            began_s = time.monotonic()
            with client.get(f"{candidate.base}{candidate.subdir}/{name}", patience=patience) as body:
                return time.monotonic() - began_s, urlsplit(body.url).netloc.rpartition("@")[2]
        except TransferError as error:
            if error.status != 404:
                raise
    raise TransferError(f"has no {candidate.subdir} of this channel", is_transient=False)


def _sample(candidate: Candidate, reading: Reading, patience: Timeouts) -> Reading:
    began_s = time.monotonic()
    try:
        with client.get(candidate.base + candidate.sample, patience=patience) as body:
            first_s = time.monotonic()
            count = 0
            for chunk in body.chunks:
                count += len(chunk)
                if count >= _SAMPLE_BYTES or time.monotonic() - first_s > _SAMPLE_S:
                    break
            elapsed_s = max(time.monotonic() - first_s, 1e-6)
            host = urlsplit(body.url).netloc.rpartition("@")[2]
    except TransferError as error:
        if error.status == 404:
            raise TransferError(f"lacks {candidate.sample.rpartition('/')[2]}", is_transient=False) from error
        raise
    return replace(
        reading,
        latency_s=reading.latency_s if reading.latency_s is not None else first_s - began_s,
        bytes_per_s=count / elapsed_s,
        served_by=host,
    )


def by_channel(readings: Sequence[Reading]) -> Mapping[str, Sequence[Reading]]:
    """The readings of each channel, the quickest first, those that failed last."""
    found: dict[str, list[Reading]] = {}
    for each in readings:
        found.setdefault(each.channel, []).append(each)
    return {
        channel: sorted(each, key=lambda reading: (reading.estimate_s or float("inf"), reading.name))
        for channel, each in found.items()
    }
