"""The errors of `serve`: one root, and one class for each thing that can be at fault.

A message names the thing, then what was expected, then what was found. What to do about it is the hint."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What would colour a terminal's text or move its cursor: other people's errors hold such things.
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f]")


def plain(text: str) -> str:
    """Write a text on one line that does nothing to a terminal."""
    return " ".join(_CONTROLS.sub("", text).split())


class ServeError(Exception):
    """Anything that `serve` knows can go wrong; the hint is what the reader can do about it."""

    is_disruptive = False  # whether the live model was unloaded for the attempt that ended so

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Issue:
    """One problem of a text that a person or a machine wrote, at a place such as `serve.toml: poll_s`."""

    place: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class SettingsError(ServeError):
    """The settings cannot be used; every issue is listed, not only the first."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        noun = "problem" if len(issues) == 1 else "problems"
        lines = [f"  {issue}" + (f" ({issue.hint})" if issue.hint else "") for issue in issues]
        hint = "`python -m serve settings` lists every key, its variable and its default"
        super().__init__("\n".join([f"{len(issues)} {noun} in the settings", *lines]), hint)
        self.issues = tuple(issues)


class CheckpointError(ServeError):
    """A checkpoint or its marker is at fault; trying the same bytes again cannot help; `code` is the kind of fault."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.code = code


class TrialError(CheckpointError):
    """A model could not be tried, or its own code rejects it: the cause may lie outside the bytes, and pass."""


class CheckpointMovedError(ServeError):
    """The checkpoint changed while it was read; the next look decides again."""


class ModelError(ServeError):
    """The class that `model = "module:Class"` names cannot be used."""


class InputError(ServeError):
    """The inputs of a request do not fit the model; `expected_shape` would, where `None` is any length."""

    def __init__(self, message: str, expected_shape: Sequence[int | None] | None = None) -> None:
        super().__init__(message)
        self.expected_shape = None if expected_shape is None else tuple(expected_shape)


class RequestError(ServeError):
    """A request cannot be read: 400 malformed, 404 unknown, 413 too long, 415 in an unknown form, 422 unfit here."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class NotLiveError(ServeError):
    """No model is live in this worker yet."""


class HeldError(NotLiveError):
    """A request may not start now, and may in a moment."""


class FleetError(ServeError):
    """The other hosts, or the keys that they share, cannot be reached or do not take this one in."""


class NotServedError(ServeError):
    """No such model, version or label is served here."""


class PublishError(ServeError):
    """A file cannot be published as a checkpoint."""


class LedgerError(ServeError):
    """A file of the store by which workers agree is damaged."""


class DeadlineError(ServeError):
    """Not every worker had prepared a generation in time."""


class OperationError(ServeError):
    """An operator's command cannot be carried out."""


class MemoryShortError(ServeError):
    """A model would not fit into memory beside what is loaded; it may later."""


class SignatureError(ServeError):
    """A key cannot be used to sign or to verify."""


class StoreFullError(ServeError):
    """The disk of the store has no room for the checkpoint; it may have later."""


def describe(error: ServeError) -> str:
    """Write an error as a command line shows it, the hint on a line of its own."""
    return f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else "")


_LONGEST = 80
_WRITER = reprlib.Repr()
_WRITER.maxlevel = 3
_WRITER.maxstring = _WRITER.maxother = _WRITER.maxlong = _LONGEST
_WRITER.maxlist = _WRITER.maxdict = 8


def excerpt(found: object) -> str:
    """Write a value."""
    text = _WRITER.repr(found)
    return text if len(text) <= 2 * _LONGEST else text[: 2 * _LONGEST] + "…"
