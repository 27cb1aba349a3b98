"""Compiles modules into byte-code that depends on nothing but the module; run by the environment's own interpreter.
`marshal` marks an object for later reference only when something else holds it too, so that the same module gives other
bytes after other modules (they share strings). Here all of the code is held once more, and so always marked. Usage:
python compile_worker.py PREFIX JOBS < NUL-separated paths relative to PREFIX"""

from __future__ import annotations

import importlib.util
import marshal
import os
import sys
from collections.abc import Sequence
from types import CodeType
from typing import Any

_CHECKED_HASH = 0b11  # PEP 552: hash-based, and compared with the source when it is imported
# Not the two that are functions.
_ATTRIBUTES = [name for name in dir(CodeType) if name.startswith("co_") and name not in ("co_lines", "co_positions")]


def main(prefix: str, jobs: int, names: Sequence[str]) -> None:
    """Compile every file, in as many processes as jobs."""
    children = []
    for job in range(jobs):
        child = os.fork()
        if child == 0:
            for name in names[job::jobs]:
                compile_file(os.path.join(prefix, name), name)  # noqa: PTH118 - os alone is imported quicker
            os._exit(0)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        if status != 0:
            sys.exit(f"a process that compiled ended with status {status}")


def compile_file(path: str, shown: str) -> None:
    """Write the byte-code of a file into `__pycache__`; a file that is no Python for this version is left alone."""
    with open(path, "rb") as file:  # noqa: PTH123 - os alone is imported quicker
        source = file.read()
    try:
        code = compile(source, shown, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return  # templates and files for other versions are shipped as .py too; nobody can import them anyway
    held: list[Any] = []
    _hold(code, held)
    target = importlib.util.cache_from_source(path, optimization="")
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
    with open(target, "wb") as file:  # noqa: PTH123
        header = importlib.util.MAGIC_NUMBER + _CHECKED_HASH.to_bytes(4, "little")
        file.write(header + importlib.util.source_hash(source) + marshal.dumps(code))


def _hold(value: Any, held: list[Any]) -> None:
    held.append(value)
    if isinstance(value, (tuple, frozenset)):
        for item in value:
            _hold(item, held)
    elif isinstance(value, CodeType):
        for name in _ATTRIBUTES:
            _hold(getattr(value, name), held)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [name for name in sys.stdin.read().split("\0") if name])
