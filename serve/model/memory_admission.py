"""Making room for a model by unloading the one that is live: the resource-preserving way.

Requests that come meanwhile are answered 503 with Retry-After. The requests that hold a lease are waited for.
"""

from __future__ import annotations

import gc
import time

from serve.errors import MemoryShortError
from serve.model.slot import Generation, Slot

_LOOK_S = 0.01


def make_room(slot: Slot, live: Generation, timeout_s: float) -> None:
    """Unload what is live, and free its weights.

    Args:
        live: what it holds; back in its place when its requests do not end.

    Raises:
        MemoryShortError: they did not end; nothing has changed.
    """
    slot.vacate()
    until_s = time.monotonic() + timeout_s
    while True:
        for generation in slot.take_drained():
            release = getattr(generation.predictor, "release", None)
            if release is not None:
                release()
        if not slot.is_draining:
            gc.collect()
            return
        if time.monotonic() > until_s:
            slot.put_back(live)
            raise MemoryShortError(
                f"making room: expected the requests of generation {live.provenance.generation} to end "
                f"in {timeout_s:g} s, found some that still run"
            )
        time.sleep(_LOOK_S)
