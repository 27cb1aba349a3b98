"""Environment variables of an environment: valid names and values."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def problem(name: str, value: str) -> str | None:
    """Why a variable cannot be set, or None when it can."""
    if not NAME.fullmatch(name):
        return f"variable {name!r} must have letters, digits and _ alone, and start with no digit"
    try:
        is_text = "\0" not in value and bool(value.encode() or True)
    except UnicodeEncodeError:
        is_text = False
    return None if is_text else f"the value of {name} has a character that no variable can hold"
