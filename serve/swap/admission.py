"""Admission of candidates: copied into the store, unless they were refused before; the committer makes them live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple

from serve.errors import CheckpointError, CheckpointMovedError
from serve.source.local import look_at_checkpoint
from serve.source.observation import Ignore, Load, Refuse, Wait
from serve.store.ledger import Entry
from serve.store.quarantine import Rejection, code_of, explain, reject_entry
from serve.swap.background_task import BackgroundTask

if TYPE_CHECKING:
    from serve.checkpoint.manifest import Stored
    from serve.model.loader import ModelLoader
    from serve.swap.context import Context

_AGAIN_S = 0.2
# With 400 MB and all cores busy, the p99 during the copy fell from twice to 1.2 times the one without, and the copy
# took a tenth longer (bench/swap.py).
_NICENESS = 10
_LARGE_BYTES = 8 * 1024 * 1024
_LOOK_S = 0.2
# How many digits of the sha256 stand for a version that no marker named.
_SHORT_SHA256 = 12
_NO_ENTRY = Entry(0, "", 0, "", "", 0, "")


class Admitted(NamedTuple):
    """A candidate that may be made live. `entry`: what is to be committed; the ledger numbers it."""

    stored: Stored
    entry: Entry


class Admission:
    """Lets candidates in, for one worker; `needed` is `Committer.kept`."""

    def __init__(self, context: Context, needed: Callable[[], frozenset[str]]) -> None:
        self._context, self._needed = context, needed
        self._is_stopping = False

    def stop(self) -> None:
        """Break off a copy that is under way; the worker ends."""
        self._is_stopping = True

    def admit(self, loader: ModelLoader, candidate: Load) -> Admitted | Ignore | Wait:
        """Let a candidate in. Returns what may be made live; or what became of a candidate that may not."""
        seen = candidate.observation
        marker = seen.text.decode(errors="replace")
        if candidate.manifest.sha256 is not None:
            record = self._context.quarantine.find_sha256(candidate.manifest.sha256, marker)
            # A marker that was touched or written again asks to look again at what the bytes do not prove.
            if record is not None and record.retry_at_s is None:
                return Ignore(f"refused: {record.reason}")
        try:
            self._preview(loader, candidate)
            stored = self._copy(candidate)
            self._context.policy.require(candidate.manifest.stated, stored.sha256)
        except CheckpointMovedError as error:
            return Wait(error.message, _AGAIN_S)
        except Exception as error:
            return self.refuse(Refuse(seen, code_of(error), explain(error)), error, candidate.manifest.version or "")
        record = self._context.quarantine.find_sha256(stored.sha256, marker)
        if record is not None and record.retry_at_s is None:
            self._context.quarantine.recognize(record, seen.fingerprint)
            return Ignore(f"refused: {record.reason}")
        entry = Entry(
            generation=0,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            version=candidate.manifest.version or stored.sha256[:_SHORT_SHA256],
            name=seen.path.name,
            marker_mtime_ns=seen.marker.mtime_ns,
            fingerprint=seen.fingerprint,
            marker_generation=seen.generation,
            marker=marker,
        )
        return Admitted(stored, entry)

    def refuse(self, action: Refuse, error: BaseException | None = None, version: str = "") -> Ignore:
        """Put an observation into quarantine. Returns the same in a form that asks for nothing more."""
        seen = action.observation
        is_lasting = error is None or reject_entry(error, _NO_ENTRY).is_lasting
        marker = seen.text.decode(errors="replace")
        about = seen.path.name, action.code, action.reason, seen.fingerprint
        rejection = Rejection(*about, version=version, is_lasting=is_lasting, marker=marker)
        return self._context.reject(rejection, self._needed)

    def _copy(self, candidate: Load) -> Stored:
        """Admit a candidate to the store; a large one while requests go first."""
        seen = candidate.observation.checkpoint
        if seen is None or seen.size_bytes < _LARGE_BYTES:
            return self._context.store.admit(candidate, self._needed)
        copying = BackgroundTask(lambda: self._context.store.admit(candidate, self._needed), "copy", _NICENESS)
        while not copying.wait(_LOOK_S):
            if self._is_stopping:
                raise CheckpointMovedError("the worker ends")
        return copying.take()

    def _preview(self, loader: ModelLoader, candidate: Load) -> None:
        """Refuse before the copy what the first bytes prove; those of another machine are copied first."""
        seen, sha256 = candidate.observation, candidate.manifest.sha256
        if seen.source is not None or (sha256 is not None and self._context.store.has(sha256)):
            return
        try:
            loader.preview(seen.path, candidate.manifest)
        except CheckpointError as error:
            if look_at_checkpoint(seen.path) != seen.checkpoint:
                raise CheckpointMovedError(f"{seen.path.name}: it changed since it was observed") from error
            raise
