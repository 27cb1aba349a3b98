"""Scripts that a shell evaluates to activate a prefix. Every value is a literal: no shell ever evaluates what is in it.

conda and py-rattler read the same places: `etc/conda/env_vars.d`, `conda-meta/state`, `etc/conda/activate.d`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from envtool.lockfile.model import VARIABLE_NAME

_UNSET = "***unset***"  # conda's mark of a variable that an environment does not have any more


def activation_script(prefix: Path, shell: str) -> str:
    """The PATH, the variables and the activate.d scripts of a prefix, for one shell."""
    is_fish = shell == "fish"
    path = quoted(str(prefix / "bin"), shell)
    lines = [f"set -gx PATH {path} $PATH" if is_fish else f'export PATH={path}:"$PATH"']
    for name, value in {"CONDA_SHLVL": "1", "CONDA_PREFIX": str(prefix), **_variables(prefix)}.items():
        lines.append(f"set -gx {name} {quoted(value, shell)}" if is_fish else f"export {name}={quoted(value, shell)}")
    scripts = sorted((prefix / "etc/conda/activate.d").glob("*.fish" if is_fish else "*.sh"))
    lines += [f"{'source' if is_fish else '.'} {quoted(str(each), shell)}" for each in scripts]
    return "\n".join(lines) + "\n"


def quoted(text: str, shell: str) -> str:
    """A text as a literal of a shell."""
    if shell == "fish":
        return "'" + re.sub(r"(['\\])", r"\\\1", text) + "'"
    return shlex.quote(text)


def _variables(prefix: Path) -> dict[str, str]:
    """The variables that activation sets, those of packages before those of the environment."""
    found: dict[str, str] = {}
    for path in sorted((prefix / "etc/conda/env_vars.d").glob("*.json")):
        found.update(_texts(json.loads(path.read_bytes())))
    state = prefix / "conda-meta/state"
    if state.is_file():
        found.update(_texts(json.loads(state.read_bytes()).get("env_vars", {})))
    # conda and py-rattler export a name in capitals, whatever it is written in; who wrote it looks for it as written.
    return {**{name.upper(): value for name, value in found.items()}, **found}


def _texts(variables: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in variables.items():
        if isinstance(value, str) and value != _UNSET and VARIABLE_NAME.fullmatch(name):
            yield name, value
