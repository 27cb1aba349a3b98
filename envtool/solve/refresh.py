"""The inputs of the next lock that the present one records: its sources, platforms and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from envtool import console
from envtool.lockfile.conda_lock_v1 import INPUTS_KEY, Lockfile
from envtool.solve.lock import LockRequest
from envtool.solve.recorded_inputs import options_of
from envtool.spec.environment import DEFAULT_PLATFORM, read_spec

DEFAULT_SOURCE = Path("environment.yml")


def sources_of(lockfile: Lockfile | None, target: Path) -> list[Path]:
    """The files that a lock was made of, or environment.yml where there is no lock or one of them is gone."""
    named = [target.parent / each for each in lockfile.sources] if lockfile else []
    return named if named and all(each.exists() for each in named) else [DEFAULT_SOURCE]


def request(
    paths: Sequence[Path], target: Path, old: Lockfile | None, given: Mapping[str, str], *, keeps_options: bool = False
) -> LockRequest:
    """What to lock, so that nothing of the lock that is there is lost unless somebody asks for it.

    Args:
        paths: the sources; those of the lock when none are given.
        old: the lock that is there, if there is one.
        keeps_options: whether everything that was given before still holds; otherwise the platforms alone do.

    Raises:
        MissingFileError: A source cannot be read.
        SpecError: A source is malformed.
    """
    recorded = recorded_options(old)
    kept = {name: value for name, value in recorded.items() if keeps_options or name == "platform"}
    options = {**kept, **given}
    spec = read_spec(
        paths or sources_of(old, target),
        tuple(options.get("platform", "").split()),
        default=(old.platforms if old else ()) or (DEFAULT_PLATFORM,),
    )
    for each in spec.warnings:
        console.warn(str(each))
    return LockRequest(spec, target, options)


def recorded_options(old: Lockfile | None) -> dict[str, str]:
    """What the command line said when a lock was made; empty where another tool made it."""
    recorded = old.custom_metadata.get(INPUTS_KEY) if old else None
    return options_of(recorded) if recorded else {}


def has_other_strategy(old: Lockfile, options: Mapping[str, str]) -> bool:
    """Whether versions are now chosen by another rule than in a lock, so that keeping them would answer nothing."""
    return recorded_options(old).get("strategy", "highest") != options.get("strategy", "highest")
