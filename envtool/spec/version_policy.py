"""The choice between versions that fit: the newest or the oldest, and none younger than a cut-off."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from envtool.errors import EnvtoolError

_UNITS = {"w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
_WORDS = r"(?:w|weeks?|d|days?|h|hours?|m|min|minutes?|s|seconds?)"
_PART = re.compile(rf"(\d+)\s*({_WORDS})(?![A-Za-z])\s*", re.IGNORECASE)
# Source: ISO 8601, durations; years and months have no fixed length and are none here.
_ISO = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.IGNORECASE)
NEVER = "false"


@dataclass(frozen=True)
class VersionPolicy:
    """How to choose."""

    # `highest`, `lowest`, or `lowest-direct` (the oldest of what is asked for, the newest of the rest)
    strategy: str = "highest"
    exclude_newer: datetime | None = None  # the moment (UTC) after which nothing counts that was published
    # the moment for single packages, which goes before all others; None where there is none
    of_packages: Mapping[str, datetime | None] = field(default_factory=dict)
    of_channels: Mapping[str, datetime | None] = field(default_factory=dict)

    @property
    def has_exceptions(self) -> bool:
        """Whether the moment is not the same one for every package."""
        return bool(self.of_packages or self.of_channels)

    def cutoff_of(self, name: str, channel: str) -> datetime | None:
        """The moment for a package of a channel."""
        if name in self.of_packages:
            return self.of_packages[name]
        return self.of_channels.get(channel, self.exclude_newer)


def cutoff(text: str, now: datetime, place: str) -> datetime:
    """The moment that a user means by a date (the end of that day), a moment in ISO 8601, a number of days before now,
    or a duration: `7 days`, `1w`, `36h`, `P7D`. Raises EnvtoolError if it is none of them."""
    seconds = _seconds(text.strip())
    try:
        if seconds is not None:
            return now.astimezone(timezone.utc) - timedelta(seconds=seconds)
        moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except OverflowError:
        raise EnvtoolError(
            f"{place}: {text!r} is longer ago than the calendar goes", "write 7 days, P7D or 1w"
        ) from None
    except ValueError:
        raise EnvtoolError(
            f"{place}: {text!r} is neither a date nor a duration",
            "write 2026-01-31, or 7 days, P7D or 1w for a cooldown; months and years have no fixed length",
        ) from None
    if len(text.strip()) == len("2026-01-31"):
        moment += timedelta(days=1, microseconds=-1)
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def exception(text: str, now: datetime, place: str) -> datetime | None:
    """The moment that goes for one package or channel; `false` means that there is none."""
    return None if text.strip().lower() == NEVER else cutoff(text, now, place)


def _seconds(text: str) -> int | None:
    if text.isdigit():
        return int(text) * _UNITS["d"]
    iso = _ISO.fullmatch(text)
    if iso and any(iso.groups()):
        return sum(int(count or 0) * length for count, length in zip(iso.groups(), _UNITS.values()))
    if not text or _PART.sub("", text):
        return None
    return sum(int(count) * _UNITS[unit[0].lower()] for count, unit in _PART.findall(text))
