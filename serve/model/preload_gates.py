"""The gates that need neither torch nor the weights: format, signature, pickle policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from serve.checkpoint import sharded
from serve.checkpoint.formats import EXPORT, SAFETENSORS, TORCH, detect_format
from serve.checkpoint.manifest import Manifest
from serve.checkpoint.signature import Verifier
from serve.checkpoint.stored import Stored
from serve.errors import CheckpointError, ModelError, SignatureError
from serve.settings.settings import Settings

_AUTOMATIC = (SAFETENSORS, TORCH)


@dataclass(frozen=True)
class ReadPlan:
    """A checkpoint that has passed these gates, and how it may be read."""

    stored: Stored
    manifest: Manifest
    format: str
    may_unpickle: bool


class PreloadGates:
    """The gates in their order, under the settings of one model.

    Raises:
        ModelError: a key cannot be used; a server that cannot verify what it must verify serves nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        try:
            self._verifier = Verifier(settings.verify_key) if settings.verify_key else None
        except SignatureError as error:
            raise ModelError(f"verify_key: {error.message}", hint=error.hint) from error

    def check(self, path: Path, manifest: Manifest, sha256: str) -> tuple[str, bool]:
        """Pass them.

        Args:
            path: the checkpoint; the index of a sharded one.
            sha256: of its bytes, as proven or, before that, as stated.

        Returns:
            The format, and whether it may be unpickled in full, which runs its code.
        """
        format = require_format(path, manifest, self._settings.format)
        if self._verifier is not None:
            self._verifier.require(manifest.stated)
            if manifest.sha256 != sha256:
                raise CheckpointError("signature", f"the signed sha256: expected {sha256}, found {manifest.sha256}")
        return format, decide_pickle(self._settings, format, sha256, self._verifier is not None)


def require_format(path: Path, manifest: Manifest, configured: str) -> str:
    """Find a checkpoint's format, and refuse it when it is not the one that was stated or configured.

    Args:
        configured: by the settings; `"auto"` for any format that holds weights only.
    """
    found = SAFETENSORS if sharded.is_index(path) else detect_format(path)
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


def decide_pickle(settings: Settings, format: str, sha256: str, is_signed: bool) -> bool:
    """Decide how a pickle may be read.

    Returns:
        Whether it may be unpickled in full, which runs its code.
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
        reason = f"weights_only is not a security boundary in torch {version}: {', '.join(weaknesses)}"
        say("warning", reason=reason, hint='publish safetensors, and set pickle = "refuse"')
