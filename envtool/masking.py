"""Values that may never be shown: what was put into URLs is masked in every text for people."""

from __future__ import annotations

from collections.abc import Iterable

_hidden: set[str] = set()


def hide(values: Iterable[str]) -> None:
    """Mask these values from now on."""
    _hidden.update(values)


def masked(text: str) -> str:
    """A text as it may be shown."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, "***")
    return text
