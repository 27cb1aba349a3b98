"""The user's list of environments, `~/.conda/environments.txt`, which conda and editors read too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from envtool import file_lock
from envtool.atomic_files import write_atomically
from envtool.console import say


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
