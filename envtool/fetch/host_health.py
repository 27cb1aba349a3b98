"""What a run has learnt about hosts, so that one file's bad experience need not be made again by the next.

A host that gave no answer is asked last for other files; one that asked to wait is left alone until then.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from envtool.fetch.failover_policy import Place
from envtool.fetch.transfer_error import TransferError


@dataclass(frozen=True)
class _Host:
    down_reason: str | None = None
    not_before_s: float = 0.0


class HostHealth:
    """The memory of one run, shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def note(self, url: str, error: TransferError | None, now_s: float) -> None:
        """Remember how a request ended.

        Args:
            error: how it failed, None when it did not.
        """
        with self._lock:
            known = self._hosts.get(_host(url), _Host())
            wait_s = error.retry_after_s if error and error.retry_after_s else 0.0
            self._hosts[_host(url)] = _Host(
                down_reason=error.reason if error and error.is_down else None,
                not_before_s=max(known.not_before_s, now_s + wait_s) if wait_s else known.not_before_s,
            )

    def is_down(self, url: str) -> bool:
        """Whether the host gave no answer when it was asked last."""
        with self._lock:
            return self._hosts.get(_host(url), _Host()).down_reason is not None

    def inform(self, places: Sequence[Place]) -> tuple[Place, ...]:
        """The places of a file with what is known of their hosts."""
        with self._lock:
            return tuple(_informed(place, self._hosts.get(_host(place.url), _Host())) for place in places)


def _informed(place: Place, host: _Host) -> Place:
    return replace(
        place, is_doubtful=host.down_reason is not None, not_before_s=max(place.not_before_s, host.not_before_s)
    )


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
