"""The door to uv, and the variables that keep it to our interpreter and index."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from envtool import subprocesses
from envtool.errors import ProcessError
from envtool.fetch.credentials import without_secrets
from envtool.masking import masked
from envtool.mirrors import pip_index

_finding = threading.Lock()  # it asks sysconfig, which until Python 3.12 shows its table to others while it fills it


def run(arguments: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run uv and return what it printed (`env`: more variables; an empty value takes one away).

    Raises:
        ProcessError: It ended with an error.
    """
    try:
        return subprocesses.run([_binary(), *arguments], env={**_environment(), **(env or {})}, cwd=cwd)
    except ProcessError as error:  # it shows the URLs of its variables as they are
        output = without_secrets(masked(error.output))
        raise ProcessError(error.program, error.returncode, output, error.hint) from None


def _binary() -> str:
    from uv import find_uv_bin

    try:
        with _finding:
            return str(find_uv_bin())
    except OSError as error:
        raise ProcessError("uv", 127, str(error).strip(), "pip install --force-reinstall uv puts it there") from error


def _environment() -> dict[str, str]:
    # Otherwise uv may take the environment that envtool runs in, or download an interpreter, for the target.
    return {
        **pip_index.uv_environment(),
        "VIRTUAL_ENV": "",
        "CONDA_PREFIX": "",
        "UV_PYTHON_DOWNLOADS": "never",
        "NO_COLOR": "1",
    }
