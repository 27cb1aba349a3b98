"""The mirrors of a run: the configured ones, then those of the presets that were chosen, ranked by measurement.

What was measured is kept for a day in the cache, so that a create does not measure again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.atomic_files import write_atomically
from envtool.console import ProgressDisplay
from envtool.fetch.archive_cache import Cache
from envtool.mirrors import mirrors
from envtool.mirrors.mirrors import Mirrors

if TYPE_CHECKING:  # presets and measuring are imported where presets are in use, which they are on few machines
    from envtool.mirrors.benchmark import Reading

AUTO = "auto"
_KEPT_S = 24 * 3600
_LIMIT_S = 8.0


def for_urls(urls: Sequence[str], cache: Cache, display: ProgressDisplay) -> Mirrors:
    """The mirrors for some canonical URLs, as this machine is set up."""
    configured = mirrors.configured()
    names = mirrors.used()
    if not names or not urls:
        return configured
    chosen = _ranked(urls, cache, display) if names == (AUTO,) else _of_presets(urls, names)
    prefixes = dict.fromkeys([*configured.by_prefix, *chosen])
    merged = {
        prefix: tuple(dict.fromkeys([*configured.by_prefix.get(prefix, ()), *chosen.get(prefix, ())]))
        for prefix in prefixes
    }
    return replace(configured, by_prefix=merged)


def _of_presets(urls: Sequence[str], names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    from envtool.mirrors.presets import channel_of, select

    chosen = select(names)
    channels = dict.fromkeys(channel_of(url) for url in urls)
    found = {channel: tuple(url for each in chosen if (url := each.mirror_of(channel))) for channel in channels}
    return {channel: places for channel, places in found.items() if places}


def _ranked(urls: Sequence[str], cache: Cache, display: ProgressDisplay) -> dict[str, tuple[str, ...]]:
    from envtool.mirrors import benchmark
    from envtool.mirrors.presets import channel_of, presets

    readings = recall(cache)
    known = {each.channel for each in readings}
    unknown = [url for url in urls if channel_of(url) not in known]
    places = benchmark.candidates(unknown, list(presets().values()))
    if places:
        with display.task(f"measure {len(places)} mirrors"):
            readings = [*readings, *benchmark.measure(places, _LIMIT_S)]
        keep(cache, readings)
    return benchmark.rank(readings)


def recall(cache: Cache) -> list[Reading]:
    """What was measured during the last day; nothing when that cannot be read."""
    from envtool.mirrors.benchmark import Reading

    try:
        content = json.loads(_path(cache).read_text(encoding="utf-8"))
        if not 0 <= time.time() - content["measured_at"] < _KEPT_S:
            return []
        return [Reading(**each) for each in content["readings"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def keep(cache: Cache, readings: Iterable[Reading]) -> None:
    """Remember a measurement; on a cache that cannot be written it is made again next time."""
    path = _path(cache)
    content = {"measured_at": int(time.time()), "readings": [asdict(each) for each in readings]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        cache.share(path)
    except OSError:
        return


def _path(cache: Cache) -> Path:
    return cache.root / "mirrors.json"
