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
    """One thing that was found."""

    severity: Severity
    check: str
    message: str
    hint: str
