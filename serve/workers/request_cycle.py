"""A plain prediction on a connection, in the place of uvicorn's own cycle of request and response."""

from __future__ import annotations

from serve.workers.header_cache import Head


class _NobodyWaits:
    """The event that uvicorn sets on its requests; nobody waits for it here."""

    def set(self) -> None:
        """Do nothing."""


_NOBODY_WAITS = _NobodyWaits()


class RequestCycle:
    """One prediction on a connection: as much of uvicorn's request as its protocol asks for.

    Args:
        keep_alive: whether the connection stays open after the answer.
    """

    __slots__ = ("body", "disconnected", "head", "keep_alive", "message_event", "response_complete")

    def __init__(self, head: Head, keep_alive: bool) -> None:
        self.head, self.keep_alive = head, keep_alive
        self.body: list[bytes] = []
        self.response_complete = self.disconnected = False
        # One for all: a cycle that refers to itself would keep its body until the next collection of garbage.
        self.message_event = _NOBODY_WAITS

    def take_body(self) -> bytes:
        """Return the body and forget it, since a connection keeps its last cycle for as long as it is idle."""
        parts, self.body = self.body, []
        return parts[0] if len(parts) == 1 else b"".join(parts)
