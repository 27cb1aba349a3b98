"""`config.toml` under envtool's home, table by table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from envtool import paths
from envtool.errors import InvalidFileError, Issue

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def location() -> Path:
    """The path of the file, which need not exist."""
    return paths.home() / "config.toml"


def read_table(name: str) -> Any:
    """The value of a key at the top, an empty table where file or key are missing; its content is not checked.

    Raises:
        InvalidFileError: the file is not TOML, or cannot be read.
    """
    path = location()
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")).get(name, {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidFileError(str(path), [Issue(str(path), f"not TOML: {error}")]) from error
