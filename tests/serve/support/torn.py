"""A trainer that can be stopped at any byte and between any two steps, and the server's way of looking at it.

The place, the decision and the store are the real ones; only the clock is ours, so that no test has to wait.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from serve.checkpoint.formats import detect_format, read_safetensors_interface
from serve.errors import CheckpointError, CheckpointMovedError
from serve.source.local import LocalSource
from serve.source.observation import Known, Load, Refuse, decide
from serve.store.checkpoint_store import Store

SETTLE_S = 0.2


class StoppedTrainer:
    """Publishes step by step, and stops where it is told to.

    Args:
        path: of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marker = path.with_name(path.name + ".done")
        self.temporary = path.with_name(f".{path.name}.tmp")
        self._now_s = 1_000_000_000

    def write(self, content: bytes, length: int | None = None, to_temporary: bool = False) -> None:
        """Write so many bytes of some content, over what is there."""
        target = self.temporary if to_temporary else self.path
        target.write_bytes(content[:length])
        self._tick(target)

    def rename(self) -> None:
        if self.temporary.exists():
            self.temporary.replace(self.path)

    def unmark(self) -> None:
        self.marker.unlink(missing_ok=True)

    def mark(self, text: bytes, length: int | None = None) -> None:
        self.marker.write_bytes(text[:length])
        self._tick(self.marker)

    def _tick(self, path: Path) -> None:
        """File times of kernels are coarse; two steps of a test must not fall on one of them."""
        self._now_s += 1
        if path.exists():
            os.utime(path, (self._now_s, self._now_s))


class Server:
    """Looks at a place and remembers what it serves, as a reloader does."""

    def __init__(self, place: Path, store: Path) -> None:
        self._place, self._store = LocalSource(place), Store(store)
        self._first_seen: dict[str, float] = {}
        self._refused: set[str] = set()
        self._served: str | None = None
        self._order = None
        self._now_s = 0.0
        self.content: bytes | None = None
        self.reasons: list[str] = []

    def look(self, wait_s: float = 0.0) -> None:
        """Look once, some time after the last look."""
        self._now_s += wait_s
        for seen in self._place.observe():
            first_seen_s = self._first_seen.setdefault(seen.fingerprint, self._now_s)
            refusal = "refused" if seen.fingerprint in self._refused else None
            order = self._order if self._place.is_directory else None
            known = Known(self._served, order, first_seen_s, refusal)
            action = decide(seen, known, self._now_s, SETTLE_S)
            if isinstance(action, Load) and self._load(action):
                return
            if isinstance(action, Refuse):
                self._refuse(seen, action.reason)

    def look_for_long(self) -> None:
        """Look until nothing can change any more, if the trainer does nothing."""
        for _ in range(3):
            self.look(SETTLE_S * 2)

    def _load(self, action: Load) -> bool:
        seen = action.observation
        try:
            stored = self._store.admit(action)
            if detect_format(stored.path) == "safetensors":
                read_safetensors_interface(stored.path)
        except CheckpointMovedError:
            return False
        except CheckpointError as error:
            self._refuse(seen, error.message)
            return False
        self.content = stored.path.read_bytes()
        self._served, self._order = seen.fingerprint, seen.order
        return True

    def _refuse(self, seen, reason: str) -> None:
        self._refused.add(seen.fingerprint)
        self.reasons.append(reason)


def state(sha256: str, size: int) -> bytes:
    """The least that a marker states."""
    return json.dumps({"sha256": sha256, "size": size}).encode()
