"""uv's configuration file, `uv.toml`: its default index put in and taken out, everything else as it was.

Source: uv documentation, "Package indexes": the `[[index]]` with `default = true` is asked in place of the usual one.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from envtool.errors import InvalidFileError, Issue


def location() -> Path:
    """The file that uv reads for this user."""
    explicit = os.environ.get("UV_CONFIG_FILE")
    if explicit:
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "uv" / "uv.toml"


def rewrite(text: str, index: str | None, known: Collection[str], name: str = "uv.toml") -> str:
    """The file with another default index.

    Args:
        index: the index; None to use no mirror, which takes out those of `known` only.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise InvalidFileError(name, [Issue(name, f"not TOML: {error}")]) from error
    if index is None:
        _take_out(document, known)
    else:
        _put_in(document, index)
    return tomlkit.dumps(document)


def _put_in(document: Any, index: str) -> None:
    import tomlkit

    if "index-url" in document:  # the older way to say the same
        document["index-url"] = index
        return
    for entry in document.get("index", []):
        if entry.get("default"):
            entry["url"] = index
            return
    if "index" not in document:
        document["index"] = tomlkit.aot()
    is_inline = isinstance(document["index"], tomlkit.items.Array)
    entry = tomlkit.inline_table() if is_inline else tomlkit.table()
    entry["url"] = index
    entry["default"] = True
    document["index"].append(entry)


def _take_out(document: Any, known: Collection[str]) -> None:
    if str(document.get("index-url", "")).rstrip("/") in known:
        del document["index-url"]
    entries = document.get("index", [])
    for position in reversed(range(len(entries))):
        if str(entries[position].get("url", "")).rstrip("/") in known:
            del entries[position]
    if "index" in document and not len(document["index"]):
        del document["index"]
