"""Notes that conda reads besides the records of packages: history, variables, and that it is frozen."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from envtool.atomic_files import write_atomically


def write_history(
    meta: Path, command: str, before: Sequence[str], after: Sequence[str], match_specs: Sequence[str]
) -> None:
    """Note a change as conda does, so that conda can go on with the prefix.

    Without the `update specs` a later `conda remove` would take everything out that nothing else needs.
    Source: conda's conda/history.py.
    """
    lines = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {command}"]
    lines += [f"-{each}" for each in sorted(set(before) - set(after))]
    lines += [f"+{each}" for each in sorted(set(after) - set(before))]
    lines += [f"# update specs: {sorted(match_specs)!r}"]
    history = meta / "history"
    old = history.read_text() if history.exists() else ""
    write_atomically(history, old + "\n".join(lines) + "\n")


def set_variables(meta: Path, variables: Mapping[str, str]) -> None:
    """Note the variables that activation sets, where conda and py-rattler look for them."""
    state = {"env_vars": dict(sorted(variables.items()))}
    write_atomically(meta / "state", json.dumps(state, indent=2, sort_keys=True) + "\n")


def freeze(meta: Path) -> None:
    """Tell conda not to change the prefix (CEP 22)."""
    message = "This environment is made from a lock by envtool: change the lock, then run envtool create."
    write_atomically(meta / "frozen", json.dumps({"message": message}) + "\n")
