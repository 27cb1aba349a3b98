"""The rejection of requests that would be answered late: a full queue, or a deadline that has passed. Pure.

A rejection is cheap and immediate, so that a client can try another server; waiting in a long queue for an answer that
is no longer wanted is neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

TIMEOUT_HEADER = "x-request-timeout"
# The reasons of rejections, as the metrics name them.
QUEUE_FULL, DEADLINE, TOO_LARGE, SLOW_CLIENT = "queue_full", "deadline", "too_large", "slow_client"


@dataclass(frozen=True)
class Rejection:
    """Why a request is not worked on."""

    status: int
    reason: str
    message: str


class Arrival(NamedTuple):
    """A request at the moment at which its work begins.

    Args:
        arrived_s: when it came, on the monotonic clock.
        waiting: how many other requests wait behind it.
    """

    arrived_s: float
    waited_s: float = 0.0
    waiting: int = 0


def read_timeout(headers: Mapping[str, str], default_s: float) -> float:
    """Read how many seconds a client wants to wait; infinity where there is no limit.

    Args:
        default_s: for clients that do not state it; 0 for no limit.

    Raises:
        ValueError: the header is not a number of seconds.
    """
    stated = headers.get(TIMEOUT_HEADER)
    if stated is None:
        return default_s or math.inf
    try:
        timeout_s = float(stated)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s < math.inf:
        raise ValueError(f"{TIMEOUT_HEADER}: expected a number of seconds above 0, found {stated!r}")
    return timeout_s


def admit(arrival: Arrival, deadline_s: float, max_queue: int, now_s: float) -> Rejection | None:
    """Decide whether a request is worked on; return why it is turned away, or `None`.

    Args:
        deadline_s: after which the client no longer waits, on the monotonic clock.
        max_queue: how many requests may wait behind it; 0 for any number.
    """
    if now_s > deadline_s:
        after_s = now_s - arrival.arrived_s
        return Rejection(504, DEADLINE, f"the deadline passed before the work began, after {after_s:.3f} s")
    if max_queue and arrival.waiting > max_queue:
        return Rejection(
            503, QUEUE_FULL, f"the queue is full: {arrival.waiting} requests wait, at most {max_queue} may"
        )
    return None
