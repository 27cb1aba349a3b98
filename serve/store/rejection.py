"""From an error to a refusal: which code it has, and whether trying again can help. Pure."""

from __future__ import annotations

from serve.errors import CheckpointError, DeadlineError, ModelError, ServeError, TrialError, plain
from serve.store.judgement import Rejection
from serve.store.ledger import Entry


def explain(error: BaseException) -> str:
    """Write an error on one line, with what to do about it."""
    if isinstance(error, ServeError):
        said = error.message + (f" (hint: {error.hint})" if error.hint else "")
    else:
        said = f"{type(error).__name__}: {error}"
    return plain(said)


def code_of(error: BaseException) -> str:
    """Name the kind of fault by a fixed word."""
    if isinstance(error, CheckpointError):
        return error.code
    if isinstance(error, ModelError):
        return "model"
    return "deadline" if isinstance(error, DeadlineError) else type(error).__name__


def refuse_entry(error: BaseException, entry: Entry) -> Rejection:
    """Refuse bytes that are known.

    Args:
        entry: what was to be committed.
    """
    return Rejection(
        name=entry.name,
        code=code_of(error),
        reason=explain(error),
        fingerprint=entry.fingerprint,
        sha256=entry.sha256,
        version=entry.version,
        # Only what the bytes prove lasts. A full disk, no memory, a file server that is gone, a busy machine, whatever
        # the model's own code needs: it may pass.
        is_lasting=isinstance(error, CheckpointError) and not isinstance(error, TrialError),
        is_costly=isinstance(error, (TrialError, ModelError)),
        is_disruptive=isinstance(error, ServeError) and error.is_disruptive,
        marker=entry.marker,
    )
