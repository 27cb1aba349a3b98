"""Files that are rendered from templates: written, or compared with what is there."""

from __future__ import annotations

import difflib
from pathlib import Path

from envtool import console
from envtool.atomic_files import write_atomically
from envtool.errors import EnvtoolError


def write_rendered(text: str, output: Path, hint: str, *, force: bool) -> None:
    """Write a rendered file, over another one only by force.

    Raises:
        EnvtoolError: A file with another content exists.
    """
    if output.exists() and output.read_text(encoding="utf-8") != text and not force:
        raise EnvtoolError(f"{output} already exists with other content", hint)
    write_atomically(output, text)


def compare_rendered(expected: str, actual: str, output: Path, template: str) -> int:
    """Say whether a file equals its template, with the differences; the exit code."""
    if actual == expected:
        console.say(f"{output} equals its template {template}")
        return 0
    lines = expected.splitlines(), actual.splitlines()
    console.answer("\n".join(difflib.unified_diff(*lines, f"template {template}", str(output), lineterm="")))
    return 1
