"""Every error that envtool raises on purpose, under one root, so that the command line can tell it from a bug; and what
no text may show. A message names the thing, then the expected and the actual value; the hint states what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class EnvtoolError(Exception):
    """The root of every error that envtool knows."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Issue(NamedTuple):
    """One thing wrong in a file, at a place for people: `environment.yml:7` or `package[3].hash.sha256`."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class InvalidFileError(EnvtoolError):
    """A file from outside that cannot be used, with every issue that it has."""

    def __init__(self, name: str, issues: Sequence[Issue], hint: str | None = None) -> None:
        count = "1 problem" if len(issues) == 1 else f"{len(issues)} problems"
        super().__init__(f"{name} has {count}:" + "".join(f"\n  {issue}" for issue in issues), hint)
        self.issues = tuple(issues)


class SpecError(InvalidFileError):
    """An environment.yml that is malformed."""


class LockfileError(InvalidFileError):
    """A conda-lock.yml that is malformed, or of a version that is not ours to read."""


class RecipeError(InvalidFileError):
    """A recipe.yml of a channel that is malformed."""


class MissingFileError(EnvtoolError):
    """A file that a command needs was not found."""


class TemplateError(EnvtoolError):
    """A template that cannot be rendered with the variables given."""


class SolveError(EnvtoolError):
    """No set of packages satisfies the environment specification, or the records of a channel cannot be downloaded."""


class UnsatisfiableError(SolveError):
    """No set of packages satisfies the specification of one platform."""

    def __init__(self, platform: str, reason: str) -> None:
        super().__init__(f"{platform}: {reason}")
        self.platform = platform
        self.reason = reason


class VirtualPackageError(EnvtoolError):
    """This machine lacks something that no package brings, such as a CUDA driver that is new enough."""


class NetworkError(EnvtoolError):
    """A file could not be downloaded from any of its places."""


class CacheError(EnvtoolError):
    """The cache of proven downloads cannot be used: it is full, read-only, or lacks what was wanted."""


class HashMismatchError(EnvtoolError):
    """Bytes that are not the ones that were asked for, as `sha256:<hex>` or `<n> bytes`."""

    def __init__(self, name: str, expected: str, actual: str, hint: str | None = None) -> None:
        super().__init__(f"{name} is not the file that was expected:\n  expected {expected}\n  actual   {actual}", hint)
        self.name, self.expected, self.actual = name, expected, actual


class DiskSpaceError(EnvtoolError):
    """A disk has too little room."""


class ArchiveError(EnvtoolError):
    """A package archive that is not built as its format demands."""


class BundleError(EnvtoolError):
    """A bundle that is damaged, not whole, altered, not one of ours, or without what was asked of it."""


class ChannelError(EnvtoolError):
    """A channel that cannot be changed or used as asked."""


class SignatureError(EnvtoolError):
    """A key that cannot be used, or something that none of the trusted keys has signed."""


class PrefixError(EnvtoolError):
    """A prefix that cannot be used as asked: not ours, not whole, or not there."""


class DeployError(EnvtoolError):
    """A release that cannot be served, or a directory of releases that cannot be used."""


class ProcessError(EnvtoolError):
    """A program that we ran ended with an error."""

    def __init__(self, program: str, returncode: int, output: str, hint: str | None = None) -> None:
        super().__init__(f"{program} ended with exit status {returncode}" + (f":\n{output}" if output else ""), hint)
        self.program, self.returncode, self.output = program, returncode, output


class PolicyError(EnvtoolError):
    """Something that the policy of this machine does not allow."""


class ImageError(EnvtoolError):
    """An image that cannot be made, or a layout that is damaged or something else."""


_hidden: set[str] = set()


def hide(values: Iterable[str]) -> None:
    """Mask these values from now on."""
    _hidden.update(values)


def masked(text: str) -> str:
    """A text as it may be shown."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, "***")
    return text
