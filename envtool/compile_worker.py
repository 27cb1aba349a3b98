"""Compiles modules, each in a process of its own; run by the interpreter of the environment, not by envtool's.

`marshal` writes whether an object is referenced from anywhere, other modules that were compiled before it included, so
that one process for many files gives other bytes whenever their order changes. A child that is forked from the same
parent state for each file gives the same bytes always.

Usage: python compile_worker.py PREFIX JOBS < NUL-separated paths relative to PREFIX
"""

from __future__ import annotations

import contextlib
import gc
import os
import py_compile
import sys
from collections.abc import Sequence


def main(prefix: str, jobs: int, names: Sequence[str]) -> None:
    """Compile every file, `jobs` at a time."""
    gc.disable()  # a child that never collects shares nearly all memory with its parent, which makes forking cheap
    gc.freeze()
    running = 0
    for name in names:
        if running == jobs:
            os.wait()
            running -= 1
        if os.fork() == 0:
            _compile(os.path.join(prefix, name), name)  # noqa: PTH118 - pathlib would only add to what is forked
            os._exit(0)
        running += 1
    for _ in range(running):
        os.wait()


def _compile(path: str, shown: str) -> None:
    # Templates and files for other versions of Python are shipped as .py too; nobody can import them anyway.
    with contextlib.suppress(py_compile.PyCompileError, ValueError):
        py_compile.compile(
            path, dfile=shown, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [name for name in sys.stdin.read().split("\0") if name])
