"""Whether there is anybody whose request could share a run with the one that has just come."""

from __future__ import annotations

# So many requests in a row on one connection, and nobody is expected to join the next one.
_LONG_STREAK = 8


class Streak:
    """How many requests in a row came on the same connection; one for all connections of a worker."""

    __slots__ = ("connection", "length")

    def __init__(self) -> None:
        self.connection: object = None
        self.length = 0

    def goes_on(self, connection: object) -> bool:
        """Note a request, and say whether its connection seems to be the only one that asks.

        Args:
            connection: on which it came.
        """
        if connection is not self.connection:
            self.connection, self.length = connection, 0
        self.length += 1
        return self.length > _LONG_STREAK
