"""The one door to uv, and the variables with which it asks nobody but us which interpreter and index are meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from envtool import process
from envtool.errors import ProcessError
from envtool.fetching import credentials
from envtool.fetching.authorization import without_secrets
from envtool.mirroring import pypi


def run(arguments: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run uv and return what it printed.

    Args:
        arguments: Without the program.
        env: More variables; an empty value takes one away.
        cwd: The directory to run in.

    Raises:
        ProcessError: It ended with an error.
    """
    from uv import find_uv_bin

    try:
        return process.run([str(find_uv_bin()), *arguments], env={**_environment(), **(env or {})}, cwd=cwd)
    except ProcessError as error:  # it shows the URLs of its variables as they are
        output = without_secrets(credentials.masked(error.output))
        raise ProcessError(error.program, error.returncode, output, error.hint) from None


def _environment() -> dict[str, str]:
    # Otherwise uv may take the environment that envtool runs in, or download an interpreter, for the target.
    return {
        **pypi.uv_environment(),
        "VIRTUAL_ENV": "",
        "CONDA_PREFIX": "",
        "UV_PYTHON_DOWNLOADS": "never",
        "NO_COLOR": "1",
    }
