"""The gates that need neither torch nor weights: format, signature, pickle policy, memory.

Each decides from what is known and refuses with a reason; `serve.model.loader` calls them in their order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from serve.checkpoint.formats import EXPORT, SAFETENSORS, TORCH, detect_format
from serve.checkpoint.manifest import Manifest
from serve.checkpoint.signature import Verifier
from serve.checkpoint.stored import Stored
from serve.errors import CheckpointError, ModelError, SignatureError
from serve.settings.settings import Settings
from serve.system import host_memory

_AUTOMATIC = (SAFETENSORS, TORCH)


def require_format(path: Path, manifest: Manifest, configured: str) -> str:
    """Find a checkpoint's format, and refuse it when it is not the one that was stated or configured.

    Args:
        configured: by the settings; `"auto"` for any format that holds weights only.

    Raises:
        CheckpointError: it is another one.
        OSError: the file cannot be read.
    """
    found = detect_format(path)
    if manifest.format not in (None, found):
        raise CheckpointError("format", f"the format: expected {manifest.format}, found {found}")
    wanted = _AUTOMATIC if configured == "auto" else (configured,)
    if found not in wanted:
        raise CheckpointError(
            "format",
            f"the format: expected {' or '.join(wanted)}, found {found}",
            hint=f'set format = "{found}" to serve it',
        )
    return found


def require_signature(verifier: Verifier, stored: Stored, manifest: Manifest) -> None:
    """Refuse bytes that nobody trusted has signed.

    Raises:
        CheckpointError: the signature is missing or wrong, or belongs to other bytes.
    """
    verifier.require(manifest.stated)
    if manifest.sha256 != stored.sha256:
        raise CheckpointError("signature", f"the signed sha256: expected {stored.sha256}, found {manifest.sha256}")


def decide_pickle(settings: Settings, format: str, sha256: str, is_signed: bool) -> bool:
    """Decide how a pickle may be read.

    Returns:
        Whether it may be unpickled in full, which runs its code.

    Raises:
        CheckpointError: it may not be unpickled at all.
    """
    if format not in (TORCH, EXPORT):
        return False
    may_unpickle = sha256 in settings.allowed_pickles or (settings.pickle == "trusted" and is_signed)
    if format == EXPORT and (settings.pickle == "refuse" or not may_unpickle):
        raise CheckpointError(
            "pickle",
            "the format: expected nothing that runs code when it is read, found a torch.export program",
            hint='list its sha256 in allowed_pickles, or sign it and set pickle = "trusted"',
        )
    if settings.pickle == "refuse":
        raise CheckpointError(
            "pickle",
            "the format: expected no pickle, found what torch.save writes",
            hint='publish it with --convert, or set pickle = "weights_only"',
        )
    return may_unpickle


def warn_of_pickles(policy: str, weaknesses: tuple[str, ...], version: str, say: Callable[..., None]) -> None:
    """Say once, at the start, that this torch reads pickles less safely than it claims."""
    if policy != "refuse" and weaknesses:
        reason = f"weights_only is no boundary in torch {version}: {', '.join(weaknesses)}"
        say("warning", reason=reason, hint='publish safetensors, and set pickle = "refuse"')


def needed_bytes(size_bytes: int, workers: int, is_shared: bool, is_assigned: bool) -> int:
    """Estimate what loading takes at its peak on the host, in all workers that load at the same time.

    Args:
        workers: how many load it at once.
        is_shared: whether all of them map one copy of the file.
        is_assigned: whether the module keeps the tensors that were read, instead of copying them into its own.
    """
    # Each worker's module first allocates its own weights, which mapped ones then replace.
    module_bytes = size_bytes * workers
    state_bytes = size_bytes if is_shared else size_bytes * workers
    is_replaced_at_once = is_assigned and is_shared
    return module_bytes if is_replaced_at_once else module_bytes + state_bytes


def require_memory(needed: int, available: host_memory.Available | None, stored: Stored) -> None:
    """Refuse beforehand what would not fit beside the model that is live.

    Args:
        needed: bytes at the peak.

    Raises:
        MemoryShortError: with both numbers.
    """
    purpose = f"a checkpoint of {stored.size_bytes} bytes beside what is live"
    hint = 'free some memory, serve with fewer workers, or set memory = "resource"'
    host_memory.require(needed, available, purpose, hint)


def unusable_key(error: SignatureError) -> ModelError:
    """Say that a server cannot verify what it must verify; it then serves nothing rather than anything."""
    return ModelError(f"verify_key: {error.message}", hint=error.hint)
