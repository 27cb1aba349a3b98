"""Asking one place after the other until one gives what is wanted, as `envtool.fetch.failover_policy` decides."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from envtool.fetch.failover_policy import Ask, Failure, Place, Wait, after, decide
from envtool.fetch.host_health import HostHealth
from envtool.fetch.timeouts import Timeouts

Asking = Callable[[str, bool], "Failure | None"]


def ask_in_turn(
    urls: Sequence[str], ask: Asking, wait: Callable[[float], None], hosts: HostHealth, patience: Timeouts
) -> tuple[Place, ...]:
    """Ask places until one has given what is wanted, or none is left.

    Args:
        ask: asks one, told whether another one is left; None when it has given what is wanted.

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
