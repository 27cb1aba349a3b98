"""The inputs of a solve beside the specification, and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envtool.console import ProgressDisplay
from envtool.errors import SolveError
from envtool.mirrors.mirrors import Mirrors
from envtool.solve.conda_solver import PackageRecord, Repodata

if TYPE_CHECKING:  # wheels bring modules that most solves do without
    from envtool.lockfile.pylock import Wheel


@dataclass(frozen=True)
class Preference:
    """What a solve of one platform should come to, beside what is asked for.

    Args:
        keep: canonical URLs of archives that stay unless something asked for forbids it; those of packages that
            a line asks for by name come first.
    """

    keep: tuple[str, ...] = ()
    keep_wheels: tuple[Wheel, ...] = ()
    constraints: tuple[str, ...] = ()
    pip_constraints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sources:
    """Where packages come from."""

    repodata: Repodata
    mirrors: Mirrors = field(default_factory=Mirrors)
    display: ProgressDisplay = field(default_factory=ProgressDisplay)


@dataclass(frozen=True)
class Solution:
    """The packages of one platform.

    Args:
        wheels: the wheels of the `pip:` section, sorted by name.
        provided: the Python distributions that conda packages bring, each with its package; where there are wheels.
    """

    platform: str
    records: tuple[PackageRecord, ...]
    wheels: tuple[Wheel, ...] = ()
    provided: Mapping[str, str] = field(default_factory=dict)


class SolveErrors(SolveError):
    """Several platforms that cannot be satisfied (`errors`: their errors, in the order of the platforms)."""

    def __init__(self, errors: Sequence[SolveError]) -> None:
        super().__init__("\n".join(each.message for each in errors), errors[0].hint)
        self.errors = tuple(errors)
