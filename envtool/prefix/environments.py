"""The environments of this user: found, listed, removed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from envtool import paths
from envtool.errors import PrefixError
from envtool.prefix.environments_txt import known_prefixes, unregister
from envtool.prefix.prefix import Prefix, State


@dataclass(frozen=True)
class Environment:
    """One environment that envtool made.

    Args:
        env_digest: its env digest as it was made, None unless it is whole.
    """

    path: Path
    state: State
    env_digest: str | None
    package_count: int


def environments() -> list[Environment]:
    """Every environment that envtool made: those with a name, and those that conda's list of environments knows."""
    home = paths.home() / "envs"
    named = list(home.iterdir()) if home.is_dir() else []
    found = (_describe(Prefix(path)) for path in sorted({*named, *known_prefixes()}))
    return [each for each in found if each is not None]


def remove(prefix: Prefix) -> None:
    """Remove an environment with everything in it.

    Raises:
        PrefixError: it is not there, or was not made by envtool.
    """
    if prefix.state() in (State.ABSENT, State.EMPTY):
        raise PrefixError(f"{prefix.path} is not there", "envtool list shows the environments")
    with prefix.locked():
        # First the mark: a removal that is broken off must not leave something that looks whole.
        prefix.mark_incomplete()
        prefix.clear()
        shutil.rmtree(prefix.path)
    unregister(prefix.path)


def _describe(prefix: Prefix) -> Environment | None:
    state = prefix.state()
    if state is State.INCOMPLETE:
        return Environment(prefix.path, state, None, 0)
    if state is not State.WHOLE:
        return None
    receipt = prefix.receipt()
    return Environment(prefix.path, state, receipt.env_digest, len(receipt.packages))
