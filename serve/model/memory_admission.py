"""Memory for a model that is loaded beside the one that is live, or in its place.

In place of it is the resource-preserving way: what is live is unloaded first. Requests that come meanwhile are answered
503 with Retry-After; those that hold a lease are waited for.
"""

from __future__ import annotations

import gc
import time

from serve.checkpoint.formats import SAFETENSORS, TORCH
from serve.errors import MemoryShortError
from serve.model import tensors, weights
from serve.model.preload_gates import ReadPlan
from serve.model.slot import Generation, Slot
from serve.settings.settings import Settings
from serve.system import host_memory

_LOOK_S = 0.01


def require_memory(settings: Settings, plan: ReadPlan, is_alone: bool) -> None:
    """Refuse beforehand what would not fit beside the model that is live.

    Args:
        is_alone: whether this worker loads it while the others serve, as at its start.
    """
    if settings.memory == "unchecked":
        return
    workers, size_bytes = 1 if is_alone else settings.workers, plan.stored.size_bytes
    is_shared = plan.format == SAFETENSORS or (plan.format == TORCH and weights.can_map_pickles())
    needed = needed_bytes(size_bytes, workers, is_shared, tensors.can_assign())
    purpose = f"a checkpoint of {size_bytes} bytes beside what is live"
    hint = 'free some memory, serve with fewer workers, or set memory = "resource"'
    host_memory.require(needed, host_memory.read_available(), purpose, hint)
    host_memory.require(size_bytes * workers, tensors.read_device_memory(settings.device), purpose, hint)


def needed_bytes(size_bytes: int, workers: int, is_shared: bool, is_assigned: bool) -> int:
    """Estimate what loading takes at its peak on the host, in all workers that load at the same time.

    Args:
        is_shared: whether all of them map one copy of the file.
        is_assigned: whether the module keeps the tensors that were read, instead of copying them into its own.
    """
    # Each worker's module first allocates its own weights, which mapped ones then replace.
    module_bytes = size_bytes * workers
    state_bytes = size_bytes if is_shared else size_bytes * workers
    return module_bytes if is_assigned and is_shared else module_bytes + state_bytes


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
