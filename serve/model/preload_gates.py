"""The gates before the weights are read: format, signature, pickle policy, memory.

A model is loaded beside the one that is live, or in its place: then what is live is unloaded first, requests that come
meanwhile are answered 503 with Retry-After, and those that hold a lease are waited for.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple

from serve.checkpoint.formats import EXPORT, SAFETENSORS, TORCH, detect_format
from serve.checkpoint.sharded import is_index
from serve.checkpoint.signature import Verifier
from serve.errors import CheckpointError, MemoryShortError, ModelError, SignatureError
from serve.model.tensors import can_assign, read_device_memory
from serve.model.weights import can_map_pickles
from serve.system import resources

if TYPE_CHECKING:
    from serve.checkpoint.manifest import Manifest, Stored
    from serve.model.slot import Generation, Slot
    from serve.settings.settings import Settings

_AUTOMATIC = (SAFETENSORS, TORCH)


class ReadPlan(NamedTuple):
    """A checkpoint that has passed these gates, and how it may be read."""

    stored: Stored
    manifest: Manifest
    format: str
    may_unpickle: bool


class PreloadGates:
    """The gates in their order, under one model's settings; raises `ModelError` for a key that cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        try:
            self._verifier = Verifier(settings.verify_key) if settings.verify_key else None
        except SignatureError as error:
            raise ModelError(f"verify_key: {error.message}", hint=error.hint) from error

    def check(self, path: Path, manifest: Manifest, sha256: str) -> tuple[str, bool]:
        """Pass them; return the format, and whether it may be unpickled in full, which runs its code."""
        format = require_format(path, manifest, self._settings.format)
        if self._verifier is not None:
            self._verifier.require(manifest.stated)
            if manifest.sha256 != sha256:
                raise CheckpointError("signature", f"the signed sha256: expected {sha256}, found {manifest.sha256}")
        return format, decide_pickle(self._settings, format, sha256, self._verifier is not None)


def require_format(path: Path, manifest: Manifest, configured: str) -> str:
    """Find the format, and refuse one neither stated nor `configured`; `"auto"` is all that hold weights only."""
    found = SAFETENSORS if is_index(path) else detect_format(path)
    if manifest.format not in (None, found):
        raise CheckpointError("format", f"the format: expected {manifest.format}, found {found}")
    wanted = _AUTOMATIC if configured == "auto" else (configured,)
    if found not in wanted:
        hint = f'set format = "{found}" to serve it'
        raise CheckpointError("format", f"the format: expected {' or '.join(wanted)}, found {found}", hint)
    return found


def decide_pickle(settings: Settings, format: str, sha256: str, is_signed: bool) -> bool:
    """Decide how a pickle may be read. Returns whether it may be unpickled in full, which runs its code."""
    if format not in (TORCH, EXPORT):
        return False
    may_unpickle = sha256 in settings.allowed_pickles or (settings.pickle == "trusted" and is_signed)
    if format == EXPORT and (settings.pickle == "refuse" or not may_unpickle):
        said = "the format: expected nothing that runs code when it is read, found a torch.export program"
        hint = 'list its sha256 in allowed_pickles, or sign it and set pickle = "trusted"'
        raise CheckpointError("pickle", said, hint)
    if settings.pickle == "refuse":
        hint = 'publish it with --convert, or set pickle = "weights_only"'
        raise CheckpointError("pickle", "the format: expected no pickle, found what torch.save writes", hint)
    return may_unpickle


def warn_of_pickles(policy: str, weaknesses: tuple[str, ...], version: str, say: Callable[..., None]) -> None:
    """Say once, at the start, that this torch reads pickles less safely than it claims."""
    if policy != "refuse" and weaknesses:
        reason = f"weights_only is not a security boundary in torch {version}: {', '.join(weaknesses)}"
        say("warning", reason=reason, hint='publish safetensors, and set pickle = "refuse"')


_LOOK_S = 0.01


def require_memory(settings: Settings, plan: ReadPlan, is_alone: bool) -> None:
    """Refuse what would not fit beside what is live; a worker that starts loads alone, while the others serve."""
    if settings.memory == "unchecked":
        return
    workers, size_bytes = 1 if is_alone else settings.workers, plan.stored.size_bytes
    is_shared = plan.format == SAFETENSORS or (plan.format == TORCH and can_map_pickles())
    needed = needed_bytes(size_bytes, workers, is_shared, can_assign())
    purpose = f"a checkpoint of {size_bytes} bytes beside what is live"
    hint = 'free some memory, serve with fewer workers, or set memory = "resource"'
    resources.require_memory(needed, resources.read_available(), purpose, hint)
    resources.require_memory(size_bytes * workers, read_device_memory(settings.device), purpose, hint)


def needed_bytes(size_bytes: int, workers: int, is_shared: bool, is_assigned: bool) -> int:
    """Estimate what loading takes at its peak on the host; `is_shared`: all workers map one copy of the file."""
    # Each worker's module first allocates its own weights, which mapped ones then replace.
    module_bytes = size_bytes * workers
    state_bytes = size_bytes if is_shared else size_bytes * workers
    return module_bytes if is_assigned and is_shared else module_bytes + state_bytes


def make_room(slot: Slot, live: Generation, timeout_s: float) -> None:
    """Unload what is live; where its requests do not end it is put back, and this raises `MemoryShortError`."""
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
