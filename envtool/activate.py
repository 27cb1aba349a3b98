"""Run a program in an environment, as if a shell had activated it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import NoReturn

from envtool import conda, process
from envtool.errors import ProcessError
from envtool.prefix import Prefix

# They would make the environment's Python look outside of it.
_FOREIGN_VARIABLES = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_SHLVL")


def run(prefix: Prefix, argv: Sequence[str]) -> NoReturn:
    """Become a program in an activated environment; signals and the exit status are the program's own.

    Args:
        prefix: The environment; it must be whole.
        argv: The program and its arguments.

    Raises:
        PrefixError: The environment is not there, not ours or not whole.
        ProcessError: There is no bash, which the activation scripts of conda packages are written for.
    """
    prefix.require_whole()
    bash = shutil.which("bash")
    if bash is None:
        raise ProcessError("bash", 127, "not found", "activation scripts of conda packages need it")
    script = f'{conda.activation_script(prefix.path)}\nexec "$@"'
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
    process.replace([bash, "--noprofile", "--norc", "-c", script, argv[0], *argv], environment)
