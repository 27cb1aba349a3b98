"""The mirrors of a run: the configured ones, then those of chosen presets, ranked by what a lock needs of them: the
repodata of each channel, and the first megabytes of an archive or wheel, which a mirror that lags behind has not. What
was measured is kept for a day in the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from envtool.atomic_files import write_atomically
from envtool.console import ProgressDisplay
from envtool.errors import EnvtoolError
from envtool.fetch import client
from envtool.fetch.archive_cache import Cache
from envtool.fetch.failover import Timeouts, TransferError
from envtool.mirrors import mirrors
from envtool.mirrors.mirrors import AUTO, Mirrors, Preset, channel_of, is_wheel_store, presets, select

ORIGIN = "origin"
_SAMPLE_BYTES = 4_000_000
_SAMPLE_S = 2.0
_JOBS = 16
# What the estimate is made for: one archive of usual size.
_TYPICAL_BYTES = 10_000_000
_REPODATA = ("repodata.json.zst", "repodata.json")


class Candidate(NamedTuple):
    """One place to be measured."""

    name: str
    channel: str
    base: str
    subdir: str  # the subdir whose repodata is asked for; empty for wheels
    sample: str  # a file of the lock, relative to the base


class Reading(NamedTuple):
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
        futures = [pool.submit(_measure, place, limit_s) for place in places]
        done, _ = wait(futures, timeout=limit_s)
        silent = (Reading(p.name, p.channel, p.base, reason=f"no answer in {limit_s:g} s") for p in places)
        return [future.result() if future in done else reading for future, reading in zip(futures, silent)]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def rank(readings: Sequence[Reading]) -> dict[str, tuple[str, ...]]:
    """The URLs to be used for each channel, the quickest first, the origin among them; a place that only sends on to
    the host of a quicker one is no independent fallback and comes last, and one that answered nothing is left out."""
    ranked = {}
    for channel, found in by_channel([reading for reading in readings if reading.estimate_s is not None]).items():
        first: dict[str | None, Reading] = {}
        again = [each for each in found if first.setdefault(each.served_by, each) is not each]
        ranked[channel] = tuple(each.base for each in (*first.values(), *again))
    return ranked


def _measure(candidate: Candidate, limit_s: float) -> Reading:
    patience = Timeouts(connect_timeout_s=limit_s / 2, read_timeout_s=limit_s / 2)
    reading = Reading(candidate.name, candidate.channel, candidate.base)
    try:
        if candidate.subdir:
            latency_s, host = _first_repodata(candidate, patience)
            reading = reading._replace(latency_s=latency_s, served_by=host)
        return _sample(candidate, reading, patience)
    except EnvtoolError as error:
        return reading._replace(reason=error.message)


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
    return reading._replace(
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


_KEPT_S = 24 * 3600
_LIMIT_S = 8.0


def for_urls(urls: Sequence[str], cache: Cache, display: ProgressDisplay) -> Mirrors:
    """The mirrors for some canonical URLs, as this machine is set up."""
    configured = mirrors.configured()
    names = mirrors.used()
    if not names or not urls:
        return configured
    if names == (AUTO,):
        chosen = _ranked(urls, cache, display)
    else:
        known = select(names)
        places = {each: tuple(filter(None, (one.mirror_of(each) for one in known))) for each in map(channel_of, urls)}
        chosen = {channel: found for channel, found in places.items() if found}
    prefixes = dict.fromkeys([*configured.by_prefix, *chosen])
    merged = {
        prefix: tuple(dict.fromkeys([*configured.by_prefix.get(prefix, ()), *chosen.get(prefix, ())]))
        for prefix in prefixes
    }
    return replace(configured, by_prefix=merged)


def _ranked(urls: Sequence[str], cache: Cache, display: ProgressDisplay) -> dict[str, tuple[str, ...]]:
    readings = recall(cache)
    known = {reading.channel for reading in readings}
    unknown = [url for url in urls if channel_of(url) not in known]
    places = candidates(unknown, list(presets().values()))
    if places:
        with display.task(f"measure {len(places)} mirrors"):
            readings = [*readings, *measure(places, _LIMIT_S)]
        keep(cache, readings)
    return rank(readings)


def recall(cache: Cache) -> list[Reading]:
    """What was measured during the last day; nothing when that cannot be read."""
    try:
        content = json.loads(_path(cache).read_text(encoding="utf-8"))
        if not 0 <= time.time() - content["measured_at"] < _KEPT_S:
            return []
        return [Reading(**reading) for reading in content["readings"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def keep(cache: Cache, readings: Iterable[Reading]) -> None:
    """Remember a measurement; on a cache that cannot be written it is made again next time."""
    path = _path(cache)
    content = {"measured_at": int(time.time()), "readings": [reading._asdict() for reading in readings]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        cache.share(path)
    except OSError:
        return


def _path(cache: Cache) -> Path:
    return cache.root / "mirrors.json"
