"""The one door to uv, and the variables with which it asks nobody but us which interpreter and index are meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from envtool import subprocesses
from envtool.mirrors import pip_index


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

    return subprocesses.run([str(find_uv_bin()), *arguments], env={**_environment(), **(env or {})}, cwd=cwd)


def _environment() -> dict[str, str]:
    # Otherwise uv may take the environment that envtool runs in, or download an interpreter, for the target.
    return {
        **pip_index.uv_environment(),
        "VIRTUAL_ENV": "",
        "CONDA_PREFIX": "",
        "UV_PYTHON_DOWNLOADS": "never",
        "NO_COLOR": "1",
    }
