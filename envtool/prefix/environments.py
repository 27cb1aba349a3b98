"""The environments of this user: found, listed, removed; and conda's list, `~/.conda/environments.txt`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from envtool import file_lock, paths
from envtool.atomic_files import write_atomically
from envtool.console import say
from envtool.errors import PrefixError
from envtool.prefix.prefix import Prefix, State


@dataclass(frozen=True)
class Environment:
    """One environment that envtool made."""

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
    """Remove an environment with everything in it. Raises PrefixError if it is not found, or was not made by
    envtool."""
    if prefix.state() in (State.ABSENT, State.EMPTY):
        raise PrefixError(f"{prefix.path} not found", "envtool list shows the environments")
    with prefix.locked():
        # First the mark: a removal that is broken off must not leave something that looks whole.
        prefix.mark_incomplete()
        prefix.clear()
        shutil.rmtree(prefix.path)
    unregister(prefix.path)


def _describe(prefix: Prefix) -> Environment | None:
    state = prefix.state()
    if state is State.WHOLE:
        receipt = prefix.receipt()
        return Environment(prefix.path, state, receipt.env_digest, len(receipt.packages))
    return Environment(prefix.path, state, None, 0) if state is State.INCOMPLETE else None


def known_prefixes() -> list[Path]:
    """The prefixes in the user's list of environments, which conda and editors read too."""
    known = _environments_txt()
    return [Path(line) for line in known.read_text().splitlines() if line.strip()] if known.exists() else []


def register(prefix: Path) -> None:
    """Enter a prefix into the user's list of environments."""
    _change_list(lambda entries: entries if prefix in entries else [*entries, prefix])


def unregister(prefix: Path) -> None:
    """Take a prefix out of the user's list of environments."""
    _change_list(lambda entries: [each for each in entries if each != prefix])


def _change_list(change: Callable[[list[Path]], list[Path]]) -> None:
    known = _environments_txt()
    try:
        known.parent.mkdir(exist_ok=True)
        with file_lock.hold(known.with_name(f"{known.name}.lock"), known):
            before = known_prefixes()
            after = change(before)
            if after != before:
                write_atomically(known, "".join(f"{each}\n" for each in after))
    except OSError as error:
        say(f"warning: {known} could not be written: {error.strerror}; conda will not know about the environment")


def _environments_txt() -> Path:
    return Path.home() / ".conda" / "environments.txt"
