"""Values of a request, written for a message: never longer than a line, however large they are."""

from __future__ import annotations

import reprlib

_LONGEST = 80

_WRITER = reprlib.Repr()
_WRITER.maxlevel = 3
_WRITER.maxstring = _WRITER.maxother = _WRITER.maxlong = _LONGEST
_WRITER.maxlist = _WRITER.maxdict = 8


def excerpt(found: object) -> str:
    """Write a value."""
    text = _WRITER.repr(found)
    return text if len(text) <= 2 * _LONGEST else text[: 2 * _LONGEST] + "…"
