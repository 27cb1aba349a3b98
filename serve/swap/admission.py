"""Whether a candidate may come in: it is copied into the store, and what was refused before stays out.

Making it live is the committer's part; see `serve.swap.committer`.
"""

from __future__ import annotations

import contextlib
from typing import Callable, NamedTuple

from serve.checkpoint.stored import Stored
from serve.errors import CheckpointMovedError
from serve.source.observation import Ignore, Load, Refuse, Wait
from serve.store.judgement import Rejection
from serve.store.ledger import Entry
from serve.store.rejection import code_of, explain, refuse_entry
from serve.swap.background_task import BackgroundTask
from serve.swap.candidates import preview, propose
from serve.swap.context import Context, Loader

_AGAIN_S = 0.2
# With 400 MB and all cores busy, the p99 during the copy fell from twice to 1.2 times the one without, and the copy
# took a tenth longer (bench/swap.py).
_NICENESS = 10
_LARGE_BYTES = 8 * 1024 * 1024
_LOOK_S = 0.2


class Admitted(NamedTuple):
    """A candidate that may be made live.

    Args:
        entry: what is to be committed; the ledger numbers it.
    """

    stored: Stored
    entry: Entry


class Admission:
    """Lets candidates in, for one worker.

    Args:
        needed: tells the sha256 of what must stay in the store; `Committer.kept`.
    """

    def __init__(self, parts: Context, needed: Callable[[], frozenset[str]]) -> None:
        self._parts, self._needed = parts, needed
        self._is_stopping = False

    def stop(self) -> None:
        """Break off a copy that is under way; the worker ends."""
        self._is_stopping = True

    def admit(self, loader: Loader, candidate: Load) -> Admitted | Ignore | Wait:
        """Let a candidate in.

        Returns:
            What may be made live; or what became of a candidate that may not.
        """
        seen = candidate.observation
        marker = seen.text.decode(errors="replace")
        if candidate.manifest.sha256 is not None:
            record = self._parts.quarantine.find_sha256(candidate.manifest.sha256, marker)
            # A marker that was touched or written again asks to look again at what the bytes do not prove.
            if record is not None and record.retry_at_s is None:
                return Ignore(f"refused: {record.reason}")
        try:
            preview(loader, self._parts.store, candidate)
            stored = self._copy(candidate)
        except CheckpointMovedError as error:
            return Wait(error.message, _AGAIN_S)
        except Exception as error:
            return self.refuse(Refuse(seen, code_of(error), explain(error)), error, candidate.manifest.version or "")
        record = self._parts.quarantine.find_sha256(stored.sha256, marker)
        if record is not None and record.retry_at_s is None:
            self._parts.quarantine.recognize(record, seen.fingerprint)
            return Ignore(f"refused: {record.reason}")
        return Admitted(stored, propose(candidate, stored))

    def refuse(self, action: Refuse, error: BaseException | None = None, version: str = "") -> Ignore:
        """Put an observation into quarantine.

        Returns:
            The same in a form that asks for nothing more.
        """
        seen = action.observation
        is_lasting = error is None or refuse_entry(error, _NOBODY).is_lasting
        marker = seen.text.decode(errors="replace")
        refusal = Rejection(
            name=seen.path.name,
            code=action.code,
            reason=action.reason,
            fingerprint=seen.fingerprint,
            version=version,
            is_lasting=is_lasting,
            marker=marker,
        )
        return say_refused(self._parts, refusal, self._needed)

    def _copy(self, candidate: Load) -> Stored:
        """Admit a candidate to the store; a large one while requests go first."""
        seen = candidate.observation.checkpoint
        if seen is None or seen.size_bytes < _LARGE_BYTES:
            return self._parts.store.admit(candidate, self._needed)
        copying = BackgroundTask(lambda: self._parts.store.admit(candidate, self._needed), "copy", _NICENESS)
        while not copying.wait(_LOOK_S):
            if self._is_stopping:
                raise CheckpointMovedError("the worker ends")
        return copying.take()


def say_refused(parts: Context, refusal: Rejection, needed: Callable[[], frozenset[str]]) -> Ignore:
    """Put something into quarantine, say so once on this host, and drop the copy of what can never serve.

    Args:
        needed: tells the sha256 of what must stay in the store; `Committer.kept`.
    """
    if refusal.is_lasting and refusal.sha256 and refusal.sha256 not in needed():
        with contextlib.suppress(OSError):  # the next prune finds it
            parts.store.shelf.drop(refusal.sha256)
    if parts.quarantine.add(refusal):
        parts.log.emit(
            "refused",
            checkpoint=str(parts.place.directory / refusal.name),
            code=refusal.code,
            reason=refusal.reason,
            will_retry=not refusal.is_lasting,
            sha256=refusal.sha256 or None,
            version=refusal.version or None,
        )
    return Ignore(f"refused: {refusal.reason}")


_NOBODY = Entry(0, "", 0, "", "", 0, "")
