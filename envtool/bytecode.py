"""Reproducible byte-code: the same bytes in every directory and on every machine.

Compiled once while creating, so that running the environment never writes into it. `PYTHONHASHSEED=0` fixes the order
of marshalled sets; checked hashes take the place of time stamps (PEP 552); file names are relative to the prefix, and
the import system puts the real ones back when it loads the code; and no module's code depends on which were compiled
before it (`envtool.compile_worker` says how).
"""

from __future__ import annotations

import os
from pathlib import Path

from envtool import process

# Not `-I`, which would ignore the hash seed with everything else.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONPATH": "", "PYTHONHOME": "", "PYTHONPYCACHEPREFIX": ""}


def compile_all(prefix: Path, python: Path) -> None:
    """Remove the byte-code of a prefix and compile every module of its library anew.

    Args:
        prefix: The prefix.
        python: Its interpreter.
    """
    library = prefix / "lib"
    for stale in library.rglob("__pycache__/*.pyc"):
        stale.unlink()
    names = sorted(str(each.relative_to(prefix)) for each in library.glob("python3.*/**/*.py"))
    worker = Path(__file__).with_name("compile_worker.py")
    argv = [str(python), "-s", "-S", str(worker), str(prefix), str(os.cpu_count() or 1)]
    process.run(argv, cwd=prefix, env=_ENVIRONMENT, stdin="\0".join(names))


def source_of(path: str) -> str | None:
    """The module that a file of byte-code was compiled from, both relative to the prefix; None for other files."""
    directory, pycache, name = path.rpartition("__pycache__/")
    if not pycache or not name.endswith(".pyc"):
        return None
    return f"{directory}{name.split('.')[0]}.py"
