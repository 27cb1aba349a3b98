"""One thing that was found about a machine."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.Enum):
    """How bad it is."""

    ERROR = "error"  # something will fail
    WARNING = "warning"  # something may fail, or be other than it seems
    NOTE = "note"  # good to know


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        severity: How bad it is.
        check: Which check found it, such as `driver`.
        message: What it is, with what is expected and what was found.
        hint: What the user can do.
    """

    severity: Severity
    check: str
    message: str
    hint: str
