"""Use of an environment: become a program in it, or have a shell activate it. conda and py-rattler read the same
places: `etc/conda/env_vars.d`, `conda-meta/state`, `etc/conda/activate.d`."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from envtool import subprocesses
from envtool.errors import ProcessError
from envtool.lockfile.model import VARIABLE_NAME
from envtool.prefix.prefix import ENV_DIGEST_VARIABLE, Prefix

_UNSET = "***unset***"  # conda's mark of a variable that an environment does not have any more


def activation_script(prefix: Path, shell: str) -> str:
    """The PATH, the variables and the activate.d scripts of a prefix, for one shell."""
    is_fish = shell == "fish"
    path = quoted(str(prefix / "bin"), shell)
    lines = [f"set -gx PATH {path} $PATH" if is_fish else f'export PATH={path}:"$PATH"']
    variables = _variables(prefix)
    # What is set may be another environment's, but for an image's tree that is the running image.
    if ENV_DIGEST_VARIABLE not in variables and not Prefix(prefix).is_active:
        lines.append(f"set -e {ENV_DIGEST_VARIABLE}" if is_fish else f"unset {ENV_DIGEST_VARIABLE}")
    for name, value in {"CONDA_SHLVL": "1", "CONDA_PREFIX": str(prefix), **variables}.items():
        lines.append(f"set -gx {name} {quoted(value, shell)}" if is_fish else f"export {name}={quoted(value, shell)}")
    scripts = sorted((prefix / "etc/conda/activate.d").glob("*.fish" if is_fish else "*.sh"))
    lines += [f"{'source' if is_fish else '.'} {quoted(str(script), shell)}" for script in scripts]
    return "\n".join(lines) + "\n"


def quoted(text: str, shell: str) -> str:
    """A text as a literal of a shell."""
    return "'" + re.sub(r"(['\\])", r"\\\1", text) + "'" if shell == "fish" else shlex.quote(text)


def _variables(prefix: Path) -> dict[str, str]:
    """The variables that activation sets, those of packages before those of the environment."""
    notes = [json.loads(path.read_bytes()) for path in sorted((prefix / "etc/conda/env_vars.d").glob("*.json"))]
    state = prefix / "conda-meta/state"
    if state.is_file():
        notes.append(json.loads(state.read_bytes()).get("env_vars", {}))
    found: dict[str, str] = {
        name: value
        for note in notes
        for name, value in note.items()
        if isinstance(value, str) and value != _UNSET and VARIABLE_NAME.fullmatch(name)
    }
    # conda and py-rattler export a name in capitals, whatever it is written in; who wrote it looks for it as written.
    return {**{name.upper(): value for name, value in found.items()}, **found}


# They would make the environment's Python look outside of it.
_FOREIGN_VARIABLES = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_SHLVL")

_POSIX_HOOK = """\
envtool() {
    case "$1" in
        activate)
            shift
            _envtool_script="$(command envtool activate --shell SHELL "$@")" || return
            envtool_deactivate
            _ENVTOOL_OLD_PATH="$PATH"
            eval "$_envtool_script"
            unset _envtool_script
            ;;
        deactivate) envtool_deactivate ;;
        *) command envtool "$@" ;;
    esac
}
envtool_deactivate() {
    [ -n "${_ENVTOOL_OLD_PATH:-}" ] || return 0
    # find, because zsh takes a pattern that matches nothing for an error.
    eval "$(find "$CONDA_PREFIX/etc/conda/deactivate.d" -name '*.sh' -exec printf '. "%s"\\n' {} \\; 2>/dev/null)"
    export PATH="$_ENVTOOL_OLD_PATH"
    unset CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_SHLVL ENVSERVE_ENV_DIGEST _ENVTOOL_OLD_PATH
}
"""

_FISH_HOOK = """\
function envtool
    switch "$argv[1]"
        case activate
            set -l script (command envtool activate --shell fish $argv[2..-1] | string collect)
            or return
            envtool_deactivate
            set -g _ENVTOOL_OLD_PATH $PATH
            eval $script
        case deactivate
            envtool_deactivate
        case '*'
            command envtool $argv
    end
end
function envtool_deactivate
    set -q _ENVTOOL_OLD_PATH; or return 0
    for file in $CONDA_PREFIX/etc/conda/deactivate.d/*.fish
        source $file
    end
    set -gx PATH $_ENVTOOL_OLD_PATH
    set -e CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_SHLVL ENVSERVE_ENV_DIGEST _ENVTOOL_OLD_PATH
end
"""


def run(prefix: Prefix, argv: Sequence[str]) -> NoReturn:
    """Become a program in an activated environment; signals and the exit status are the program's own. Raises
    PrefixError if the environment is not whole, ProcessError if there is no bash, which conda's activation scripts are
    written for."""
    bash = shutil.which("bash")
    if bash is None:
        raise ProcessError("bash", 127, "not found", "activation scripts of conda packages need it")
    script = f'{activate(prefix, "bash")}\nexec "$@"'
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
    subprocesses.replace([bash, "--noprofile", "--norc", "-c", script, argv[0], *argv], environment)


def activate(prefix: Prefix, shell: str) -> str:
    """What a shell has to evaluate to activate an environment. Raises PrefixError if it is not whole."""
    prefix.require_whole()
    return activation_script(prefix.path, shell)


def hook(shell: str) -> str:
    """What a shell has to evaluate once, so that `envtool activate` and `envtool deactivate` change it."""
    return _FISH_HOOK if shell == "fish" else _POSIX_HOOK.replace("SHELL", shell)
