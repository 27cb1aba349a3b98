"""The choice of the next place to ask for a file, after what has failed: a pure decision, without clock or network.

Every place is asked once, in the order given, before any is asked again; those that may well work a moment later are
then asked in further rounds, each after its own wait.

Source: for the wait, M. Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015), "full jitter"; for
`Retry-After`, RFC 9110 section 10.2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Union

from envtool.fetch.timeouts import Timeouts


@dataclass(frozen=True)
class Place:
    """What is known of one place that may have a file. Times are seconds of one and the same clock.

    Args:
        failures: how often it has failed in succession without bringing anything new.
        is_out: whether it cannot have the right bytes, so that asking again makes no sense.
    """

    url: str
    failures: int = 0
    not_before_s: float = 0.0
    is_out: bool = False
    is_doubtful: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Failure:
    """How a place failed."""

    reason: str
    is_transient: bool
    retry_after_s: float | None = None
    brought_bytes: bool = False


@dataclass(frozen=True)
class Ask:
    """Ask a place now."""

    position: int
    has_alternative: bool


@dataclass(frozen=True)
class Wait:
    """Wait, then decide again."""

    seconds: float


@dataclass(frozen=True)
class GiveUp:
    """No place is left."""


Step = Union[Ask, Wait, GiveUp]


def decide(places: Sequence[Place], now_s: float, patience: Timeouts) -> Step:
    """Choose the next step."""
    left = [i for i, place in enumerate(places) if _is_left(place, now_s, patience)]
    if not left:
        return GiveUp()
    ready = [i for i in left if places[i].not_before_s <= now_s]
    if not ready:
        return Wait(min(places[i].not_before_s for i in left) - now_s)
    chosen = min(ready, key=lambda i: (places[i].reason is not None, places[i].is_doubtful, places[i].failures, i))
    return Ask(chosen, has_alternative=len(left) > 1)


def after(place: Place, failure: Failure, now_s: float, jitter: float, patience: Timeouts) -> Place:
    """What is known of a place once it has failed."""
    if not failure.is_transient:
        return replace(place, is_out=True, reason=failure.reason)
    failures = 1 if failure.brought_bytes else place.failures + 1
    backoff_s = jitter * min(patience.max_backoff_s, patience.backoff_s * 2.0 ** (failures - 1))
    return replace(
        place,
        failures=failures,
        # The jitter comes on top of what the server asks for: all of its clients were asked for the same.
        not_before_s=max(place.not_before_s, now_s + (failure.retry_after_s or 0.0) + backoff_s),
        reason=failure.reason,
    )


def _is_left(place: Place, now_s: float, patience: Timeouts) -> bool:
    return (
        not place.is_out
        and place.failures < patience.attempts
        and place.not_before_s - now_s <= patience.max_wait_s + patience.max_backoff_s
    )
