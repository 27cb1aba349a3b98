"""Platforms, and the selectors in comments (`# [linux]`) that keep a line for some of them.

The rules are conda-lock's, so that both read the same file in the same way: one name in brackets, nothing like `not` or
`or`. What conda-lock would drop on every platform, because it does not know the name, is an issue here.
Source: conda_lock/src_parser/selectors.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SELECTORS: Mapping[str, frozenset[str]] = {
    "linux-64": frozenset({"linux", "linux64", "unix"}),
    "linux-aarch64": frozenset({"linux", "aarch64", "unix"}),
    "linux-ppc64le": frozenset({"linux", "ppc64le", "unix"}),
    "osx-64": frozenset({"osx", "osx64", "unix"}),
    "osx-arm64": frozenset({"osx", "arm64", "unix"}),
    "win-64": frozenset({"win", "win64"}),
}
PLATFORMS = tuple(SELECTORS)
_KNOWN = frozenset().union(*SELECTORS.values())
_SELECTOR = re.compile(r"\S.*?#[^\[]*\[([^\[\]]+)\][^()]*$")


def selector(line: str) -> str | None:
    """The selector at the end of a line, or None where it has none."""
    if line.lstrip().startswith("#"):
        return None
    match = _SELECTOR.match(line.strip())
    return match[1].strip() if match else None


def for_platform(text: str, platform: str) -> str:
    """The text with the lines of other platforms blanked, so that every other line keeps its number."""
    kept = SELECTORS[platform]
    lines = ((line, selector(line)) for line in text.split("\n"))
    return "\n".join(line if name is None or name in kept else "" for line, name in lines)


def unknown(text: str) -> list[tuple[int, str]]:
    """The selectors of a text that name no platform: line, counted from 1, and name."""
    named = ((number, selector(line)) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, name) for number, name in named if name is not None and name not in _KNOWN]
