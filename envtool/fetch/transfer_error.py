"""Why a URL did not give its bytes, with what has to be known to decide what to do about it."""

from __future__ import annotations

import email.utils
import time

from envtool.errors import NetworkError


class TransferError(NetworkError):
    """A URL that did not give its bytes.

    Args:
        is_down: whether the place as a whole gave no answer, so that other files are better sought elsewhere.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_transient: bool,
        retry_after_s: float | None = None,
        is_down: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status
        self.is_transient, self.is_down, self.retry_after_s = is_transient, is_down, retry_after_s


class RangeError(TransferError):
    """A URL that does not go on where it was asked to; from the beginning it may well work."""


def seconds_to_wait(header: str | None) -> float | None:
    """What a Retry-After header asks for, in seconds; it is a number or a date (RFC 9110 section 10.2.3)."""
    if not header:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())
