"""The driver that a CUDA version needs.

Source: NVIDIA, CUDA Toolkit Release Notes, "CUDA Toolkit and Corresponding Driver Versions" (Linux x86_64), and CUDA
Compatibility, "Minor Version Compatibility". A newer CUDA than the table's counts as its last line of the same major.
"""

from __future__ import annotations

import enum

# The driver that came with the first release of each: with it, or a newer one, everything works.
_FULL = {
    (10, 2): "440.33", (11, 0): "450.36.06", (11, 1): "455.23", (11, 2): "460.27.03", (11, 3): "465.19.01",
    (11, 4): "470.42.01", (11, 5): "495.29.05", (11, 6): "510.39.02", (11, 7): "515.43.04", (11, 8): "520.61.05",
    (12, 0): "525.60.13", (12, 1): "530.30.02", (12, 2): "535.54.03", (12, 3): "545.23.06", (12, 4): "550.54.14",
    (12, 5): "555.42.02", (12, 6): "560.28.03", (12, 8): "570.26", (12, 9): "575.51.03", (13, 0): "580.65.06",
}  # fmt: skip
# With it, programs of the whole major version run that bring code for the GPU; code made at run time does not.
_LEAST = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}


class Fit(enum.Enum):
    """How a driver goes with a CUDA."""

    FULL = "full"
    LIMITED = "limited"
    TOO_OLD = "too old"
    UNKNOWN = "unknown"


def fit(cuda: str, driver: str) -> Fit:
    """How a driver goes with a CUDA."""
    full = driver_for(cuda)
    if full is None:
        return Fit.UNKNOWN
    if _numbers(driver) >= _numbers(full):
        return Fit.FULL
    least = _LEAST.get(_numbers(cuda)[0])
    return Fit.LIMITED if least and _numbers(driver) >= _numbers(least) else Fit.TOO_OLD


def driver_for(cuda: str) -> str | None:
    """The driver with which everything of a CUDA works; None for one that is older than the table."""
    wanted = tuple(_numbers(cuda)[:2])
    known = [each for each in _FULL if each <= wanted and each[0] == wanted[0]]
    return _FULL[max(known)] if known else None


def least_driver_for(cuda: str) -> str | None:
    """The oldest driver on which programs of a CUDA run at all."""
    return _LEAST.get(_numbers(cuda)[0]) or driver_for(cuda)


def _numbers(version: str) -> list[int]:
    return [int(each) for each in version.split(".") if each.isdigit()] or [0]
