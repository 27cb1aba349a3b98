"""Platforms, and the selectors in comments (`# [linux and not aarch64]`) that keep a line for some of them, joined by
`and`, `or`, `not` and parentheses; conda-lock knows single names only. Source: CEP 24, "Comment-based selectors";
conda_lock/src_parser/selectors.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

SELECTORS: Mapping[str, frozenset[str]] = {
    "linux-64": frozenset({"linux", "linux64", "unix", "x86", "x86_64", "x64"}),
    "linux-aarch64": frozenset({"linux", "aarch64", "unix"}),
    "linux-ppc64le": frozenset({"linux", "ppc64le", "unix"}),
    "osx-64": frozenset({"osx", "osx64", "unix", "x86", "x86_64", "x64"}),
    "osx-arm64": frozenset({"osx", "arm64", "unix"}),
    "win-64": frozenset({"win", "win64", "x86", "x86_64", "x64"}),
}
PLATFORMS = tuple(SELECTORS)
# The other platforms of conda, which envtool locks nothing for.
_KNOWN = frozenset().union(*SELECTORS.values(), {"linux32", "win32", "s390x", "armv6l", "armv7l", "riscv64", "ppc64"})
_TOKEN = re.compile(r"\s*(\(|\)|[^\s()]+)")
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
    return "\n".join(line if name is None or holds(name, kept) else "" for line, name in lines)


def problems(text: str) -> list[tuple[int, str]]:
    """The selectors of a text that cannot be used: line, counted from 1, and why."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        expression = selector(line)
        if expression is None:
            continue
        words = set(_TOKEN.findall(expression)) - {"and", "or", "not", "(", ")"}
        unknown = sorted(words - _KNOWN)
        if unknown:
            known = ", ".join(sorted(_KNOWN))
            found.append((number, f"selector [{expression}] names no platform: {', '.join(unknown)}; known: {known}"))
        elif holds(expression, frozenset()) is None:
            found.append((number, f"selector [{expression}] cannot be read; names, and, or, not and parentheses can"))
    return found


def holds(expression: str, names: frozenset[str]) -> bool | None:
    """Whether a selector is true where some names are, None where it cannot be read."""

    def value(node: ast.expr) -> bool:
        if isinstance(node, ast.BoolOp):
            return (all if isinstance(node.op, ast.And) else any)(list(map(value, node.values)))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not value(node.operand)
        if isinstance(node, ast.Name):
            return node.id in names
        raise SyntaxError

    try:
        return value(ast.parse(" ".join(expression.split()), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
