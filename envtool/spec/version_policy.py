"""How to choose between versions that fit: the newest or the oldest, and none that is younger than a cut-off."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from envtool.errors import EnvtoolError

STRATEGIES = ("highest", "lowest", "lowest-direct")
_DAYS = re.compile(r"(\d+)\s*(?:d|days?)?")


@dataclass(frozen=True)
class Policy:
    """How to choose.

    Args:
        strategy: `highest`, `lowest`, or `lowest-direct` (the oldest of what is asked for, the newest of the rest).
        exclude_newer: The moment (UTC) after which nothing counts that was published.
    """

    strategy: str = "highest"
    exclude_newer: datetime | None = None


def cutoff(text: str, now: datetime, place: str) -> datetime:
    """The moment that a user means by a date or a cooldown.

    Args:
        text: A date (the end of that day), a moment in ISO 8601, or a number of days before now.
        now: The present moment, with its time zone.
        place: Where the text stands, for the error.

    Raises:
        EnvtoolError: It is neither.
    """
    days = _DAYS.fullmatch(text.strip())
    if days:
        return now.astimezone(timezone.utc) - timedelta(days=int(days[1]))
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except ValueError:
        raise EnvtoolError(
            f"{place}: {text!r} is neither a date nor a number of days", "write 2026-01-31, or 7 days for a cooldown"
        ) from None
    if len(text.strip()) == len("2026-01-31"):
        moment += timedelta(days=1, microseconds=-1)
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
