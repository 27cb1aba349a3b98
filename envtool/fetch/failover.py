"""Asking one place after the other until one gives what is wanted, as `envtool.fetch.failover_policy` decides.

A host that gave no answer is asked last for other files; one that asked to wait is left alone until then.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from envtool.fetch.failover_policy import Ask, Failure, Place, Wait, after, decide
from envtool.fetch.timeouts import Timeouts
from envtool.fetch.transfer_error import TransferError

Asking = Callable[[str, bool], "Failure | None"]


@dataclass(frozen=True)
class _Host:
    is_down: bool = False
    not_before_s: float = 0.0


class HostHealth:
    """The memory of one run, shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def note(self, url: str, error: TransferError | None, now_s: float) -> None:
        """Remember how a request ended."""
        with self._lock:
            known = self._hosts.get(_host(url), _Host())
            wait_s = error.retry_after_s if error and error.retry_after_s else 0.0
            not_before_s = max(known.not_before_s, now_s + wait_s) if wait_s else known.not_before_s
            self._hosts[_host(url)] = _Host(bool(error and error.is_down), not_before_s)

    def is_down(self, url: str) -> bool:
        """Whether the host gave no answer when it was asked last."""
        with self._lock:
            return self._hosts.get(_host(url), _Host()).is_down

    def inform(self, places: Sequence[Place]) -> tuple[Place, ...]:
        """The places of a file with what is known of their hosts."""
        with self._lock:
            return tuple(self._informed(place) for place in places)

    def _informed(self, place: Place) -> Place:
        host = self._hosts.get(_host(place.url), _Host())
        return replace(place, is_doubtful=host.is_down, not_before_s=max(place.not_before_s, host.not_before_s))


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def ask_in_turn(
    urls: Sequence[str], ask: Asking, wait: Callable[[float], None], hosts: HostHealth, patience: Timeouts
) -> tuple[Place, ...]:
    """Ask places until one has given what is wanted, or none is left.

    Args:
        ask: gets a URL, and whether another one is left; returns None once the place has given what is wanted.

    Returns:
        The places with why each has failed; none when one has not.
    """
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
