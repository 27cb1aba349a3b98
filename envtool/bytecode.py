"""Reproducible byte-code: the same bytes in every directory and on every machine.

Compiled once while creating, so that running the environment never writes into it. `PYTHONHASHSEED=0` fixes the order
of marshalled sets; checked hashes take the place of time stamps (PEP 552); the prefix is stripped from the file names,
and the import system puts the real one back when it loads the code.
"""

from __future__ import annotations

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
    for stale in (prefix / "lib").rglob("__pycache__/*.pyc"):
        stale.unlink()
    argv = [str(python), "-s", "-m", "compileall", "-q", "-q", "-j", "0", "--invalidation-mode", "checked-hash"]
    libraries = [str(each) for each in sorted((prefix / "lib").glob("python3.*"))]
    # Some packages ship files for other versions of Python or templates that are no Python at all; compileall says so
    # with exit status 1, and such a file cannot be imported anyway.
    process.run([*argv, "-s", str(prefix), *libraries], cwd=prefix, env=_ENVIRONMENT, accepted=(0, 1))
