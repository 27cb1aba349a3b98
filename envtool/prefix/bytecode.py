"""Reproducible byte-code, compiled once while creating: `PYTHONHASHSEED=0` fixes the order of marshalled sets, checked
hashes take the place of time stamps (PEP 552), file names are relative to the prefix (the import system puts the real
ones back), and no module's code depends on those before it (`envtool.prefix.compile_worker`)."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from envtool import subprocesses

# Not `-I`, which would ignore the hash seed with everything else.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONPATH": "", "PYTHONHOME": "", "PYTHONPYCACHEPREFIX": ""}

# Run by the environment's own interpreter, as a file: what it is decides what the byte-code is.
WORKER = Path(__file__).with_name("compile_worker.py")


def compile_all(prefix: Path, python: Path, kept: Collection[str] = ()) -> None:
    """Compile every module anew, but for what is `kept`: byte-code that is known to be what compiling would give."""
    modules, byte_code = set(), set()
    for directory, _, files in os.walk(prefix / "lib"):
        below = os.path.relpath(directory, prefix)
        is_python = below.split("/")[1:2] and below.split("/")[1].startswith("python3.")
        if below.endswith("__pycache__"):
            byte_code |= {f"{below}/{name}" for name in files if name.endswith(".pyc")}
        elif is_python:
            modules |= {f"{below}/{name}" for name in files if name.endswith(".py")}
    for stale in byte_code - set(kept):
        (prefix / stale).unlink()
    names = sorted(modules - {source_of(path) for path in kept})
    if not names:
        return
    argv = [str(python), "-s", "-S", str(WORKER), str(prefix), str(os.cpu_count() or 1)]
    subprocesses.run(argv, cwd=prefix, env=_ENVIRONMENT, stdin="\0".join(names))


def source_of(path: str) -> str | None:
    """The module that a file of byte-code was compiled from, both relative to the prefix; None for other files."""
    directory, pycache, name = path.rpartition("__pycache__/")
    if not pycache or not name.endswith(".pyc"):
        return None
    return f"{directory}{name.split('.')[0]}.py"
