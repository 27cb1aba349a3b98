"""The time limits and the number of attempts of downloads: one frozen value, changed by environment variables."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from envtool.errors import EnvtoolError


@dataclass(frozen=True)
class Timeouts:
    """The limits of one download.

    Args:
        read_timeout_s: how long a place may be silent; never a limit of the whole body.
        min_bytes_per_s: a place that is slower than this over `read_timeout_s` is left for the next one. The last
            place that is left may be as slow as it likes.
        attempts: how often a place may fail in succession without having brought anything new.
        backoff_s: the wait after the first failure is drawn from 0 to this; it doubles with each failure.
        max_wait_s: a place that asks to wait longer than this is given up.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    min_bytes_per_s: float = 1000.0
    attempts: int = 5
    backoff_s: float = 1.0
    max_backoff_s: float = 20.0
    max_wait_s: float = 120.0


def configured() -> Timeouts:
    """The limits that this machine is set up for.

    Raises:
        EnvtoolError: a variable holds something else than a positive number.
    """
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
    raise EnvtoolError(
        f"{name} must be a {'number of 0 or more' if may_be_zero else 'positive number'}, not {text!r}",
        f"without it, {default:g} is used",
    )
