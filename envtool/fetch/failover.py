"""Attempts to get a file: their limits, why they fail, and which place is asked next. Every place is asked once before
any is asked again; those that may work a moment later are then asked in further rounds, each after its own wait. A host
that gave no answer is asked last for other files; one that asked to wait is left alone until then. `decide` and `after`
are pure. Source: M. Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015), "full jitter"; RFC 9110
section 10.2.3, `Retry-After`."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from envtool.errors import EnvtoolError, NetworkError


class Timeouts(NamedTuple):
    """The limits of one download."""

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0  # how long a place may be silent; never a limit of the whole body
    # a place that is slower than this over `read_timeout_s` is left for the next one. The last place that is left may
    # be as slow as it likes.
    min_bytes_per_s: float = 1000.0
    attempts: int = 5  # how often a place may fail in succession without having brought anything new
    backoff_s: float = 1.0  # the wait after the first failure is drawn from 0 to this; it doubles with each failure
    max_backoff_s: float = 20.0
    max_wait_s: float = 120.0  # a place that asks to wait longer than this is given up


def configured_timeouts() -> Timeouts:
    """The limits that this machine is set up for. Raises EnvtoolError if a variable holds no positive number."""
    default = Timeouts()
    return Timeouts(
        connect_timeout_s=_number("ENVTOOL_CONNECT_TIMEOUT_S", default.connect_timeout_s),
        read_timeout_s=_number("ENVTOOL_READ_TIMEOUT_S", default.read_timeout_s),
        min_bytes_per_s=_number("ENVTOOL_MIN_BYTES_PER_S", default.min_bytes_per_s, may_be_zero=True),
        attempts=int(_number("ENVTOOL_ATTEMPTS", default.attempts)),
        backoff_s=_number("ENVTOOL_BACKOFF_S", default.backoff_s, may_be_zero=True),
        max_wait_s=_number("ENVTOOL_MAX_WAIT_S", default.max_wait_s, may_be_zero=True),
    )


def _number(name: str, default: float, *, may_be_zero: bool = False) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    is_whole_enough = name != "ENVTOOL_ATTEMPTS" or number >= 1
    if math.isfinite(number) and is_whole_enough and (number > 0 or (may_be_zero and number == 0)):
        return number
    message = f"{name} must be a {'number of 0 or more' if may_be_zero else 'positive number'}, not {text!r}"
    raise EnvtoolError(message, f"without it, {default:g} is used")


class TransferError(NetworkError):
    """A URL that did not give its bytes (`is_down`: nor any answer; other files are better sought elsewhere)."""

    def __init__(
        self, reason: str, *, is_transient: bool, retry_after_s: float | None = None, is_down: bool = False,
        status: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(reason)
        self.reason, self.status = reason, status
        self.is_transient, self.is_down, self.retry_after_s = is_transient, is_down, retry_after_s


class RangeError(TransferError):
    """A URL that does not go on where it was asked to; from the beginning it may well work."""


class Place(NamedTuple):
    """What is known of one place that may have a file. Times are seconds of one and the same clock."""

    url: str
    failures: int = 0  # how often it has failed in succession without bringing anything new
    not_before_s: float = 0.0
    is_out: bool = False  # whether it cannot have the right bytes, so that asking again makes no sense
    is_doubtful: bool = False
    reason: str | None = None


class Failure(NamedTuple):
    """How a place failed."""

    reason: str
    is_transient: bool
    retry_after_s: float | None = None
    brought_bytes: bool = False


class Ask(NamedTuple):
    """Ask a place now."""

    position: int
    has_alternative: bool


class Wait(NamedTuple):
    """Wait, then decide again."""

    seconds: float


def decide(places: Sequence[Place], now_s: float, patience: Timeouts) -> Ask | Wait | None:
    """Choose the next step; None where no place is left."""
    latest_s = now_s + patience.max_wait_s + patience.max_backoff_s
    usable = (i for i, each in enumerate(places) if not each.is_out and each.failures < patience.attempts)
    left = [i for i in usable if places[i].not_before_s <= latest_s]
    if not left:
        return None
    ready = [i for i in left if places[i].not_before_s <= now_s]
    if not ready:
        return Wait(min(places[i].not_before_s for i in left) - now_s)
    chosen = min(ready, key=lambda i: (places[i].reason is not None, places[i].is_doubtful, places[i].failures, i))
    return Ask(chosen, has_alternative=len(left) > 1)


def after(place: Place, failure: Failure, now_s: float, jitter: float, patience: Timeouts) -> Place:
    """What is known of a place once it has failed."""
    if not failure.is_transient:
        return place._replace(is_out=True, reason=failure.reason)
    failures = 1 if failure.brought_bytes else place.failures + 1
    backoff_s = jitter * min(patience.max_backoff_s, patience.backoff_s * 2.0 ** (failures - 1))
    return place._replace(
        failures=failures,
        # The jitter comes on top of what the server asks for: all of its clients were asked for the same.
        not_before_s=max(place.not_before_s, now_s + (failure.retry_after_s or 0.0) + backoff_s),
        reason=failure.reason,
    )


Asking = Callable[[str, bool], "Failure | None"]


class HostHealth:
    """The memory of one run, shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down: set[str] = set()
        self._not_before_s: dict[str, float] = {}

    def note(self, url: str, error: TransferError | None, now_s: float) -> None:
        """Remember how a request ended."""
        host = _host(url)
        with self._lock:
            if error and error.is_down:
                self._down.add(host)
            else:
                self._down.discard(host)
            if error and error.retry_after_s:
                self._not_before_s[host] = max(self._not_before_s.get(host, 0.0), now_s + error.retry_after_s)

    def is_down(self, url: str) -> bool:
        """Whether the host gave no answer when it was asked last."""
        return _host(url) in self._down

    def inform(self, places: Sequence[Place]) -> tuple[Place, ...]:
        """The places of a file with what is known of their hosts."""
        with self._lock:
            return tuple(
                place._replace(
                    is_doubtful=_host(place.url) in self._down,
                    not_before_s=max(place.not_before_s, self._not_before_s.get(_host(place.url), 0.0)),
                )
                for place in places
            )


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def ask_in_turn(
    urls: Sequence[str], ask: Asking, wait: Callable[[float], None], hosts: HostHealth, patience: Timeouts
) -> tuple[Place, ...]:
    """Ask places until `ask` (which gets a URL, and whether another one is left) returns None, or none is left; returns
    the places with why each has failed, none when one has not."""
    places = tuple(Place(url) for url in urls)
    while True:
        places = hosts.inform(places)
        step = decide(places, time.monotonic(), patience)
        if isinstance(step, Wait):
            wait(step.seconds)
        elif isinstance(step, Ask):
            failure = ask(places[step.position].url, step.has_alternative)
            if failure is None:
                return ()
            jitter = random.random()  # noqa: S311 - no secret
            failed = after(places[step.position], failure, time.monotonic(), jitter, patience)
            places = (*places[: step.position], failed, *places[step.position + 1 :])
        else:
            return places
