"""pip's configuration file: its index put in and taken out line by line, everything else as it was.

Source: pip documentation, "Configuration": `[global]` is read first, `[install]` goes over it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

_SECTION = re.compile(r"\s*\[(?P<name>[^\]]+)\]")
_INDEX = re.compile(r"(?P<key>index[-_]url)(?P<sign>\s*[=:]\s*)(?P<value>.*?)\s*$", re.IGNORECASE)


def location() -> Path:
    """The file that pip reads for this user: the one that is there, or the usual one."""
    explicit = os.environ.get("PIP_CONFIG_FILE")
    if explicit and explicit != os.devnull:
        return Path(explicit).expanduser()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pip" / "pip.conf"
    legacy = Path.home() / ".pip" / "pip.conf"
    return legacy if legacy.exists() and not config.exists() else config


def rewrite(text: str, index: str | None, known: Collection[str]) -> str:
    """The file with another index.

    Args:
        index: the index; None to use no mirror, which takes out those of `known` only.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    found = _index_lines(lines)
    if index is None:
        gone = {i for i in found if _value(lines[i]).rstrip("/") in known}
        left = "".join(line for i, line in enumerate(lines) if i not in gone)
        return "" if gone and left.strip() == "[global]" else left
    for i in found:
        if match := _INDEX.match(lines[i].strip("\r\n")):
            lines[i] = f"{match['key']}{match['sign']}{index}{newline}"
    if not found:
        _insert(lines, f"index-url = {index}{newline}", newline)
    return "".join(lines)


def _index_lines(lines: list[str]) -> list[int]:
    # An indented line goes on with the value before it, so a key starts in the first column.
    section, found = "", []
    for i, line in enumerate(lines):
        header = _SECTION.match(line)
        if header:
            section = header["name"]
        elif section in ("global", "install") and _INDEX.match(line):
            found.append(i)
    return found


def _value(line: str) -> str:
    match = _INDEX.match(line.strip("\r\n"))
    return match["value"] if match else ""


def _insert(lines: list[str], line: str, newline: str) -> None:
    for i, each in enumerate(lines):
        header = _SECTION.match(each)
        if header and header["name"] == "global":
            if not each.endswith("\n"):
                lines[i] = each + newline
            lines.insert(i + 1, line)
            return
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += newline
    lines += [f"[global]{newline}", line]
