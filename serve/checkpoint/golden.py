"""Golden requests as a manifest states them: inputs whose outputs are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

# What float32 loses when the order of a sum changes, as it does between batch sizes, threads and devices.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Golden:
    """One request and its right answer.

    Args:
        rtol: how far a number may be off, as a share of the right one.
        atol: how far it may be off beyond that.
    """

    inputs: object
    outputs: object
    rtol: float = RELATIVE_TOLERANCE
    atol: float = ABSOLUTE_TOLERANCE

    def as_json(self) -> dict[str, object]:
        """Return it as it is in a manifest."""
        return {"inputs": self.inputs, "outputs": self.outputs, "rtol": self.rtol, "atol": self.atol}


def golden_issues(stated: object) -> list[str]:
    """List what is wrong with the golden requests of a manifest."""
    if stated is None:
        return []
    if not isinstance(stated, list):
        return [f"golden: expected a list of requests, found {type(stated).__name__}"]
    return [f"golden[{place}]{issue}" for place, one in enumerate(stated) for issue in _issues_of(one)]


def _issues_of(one: object) -> Iterator[str]:
    if not isinstance(one, dict) or not {"inputs", "outputs"} <= set(one):
        yield ': expected {"inputs": …, "outputs": …}'
        return
    for key in ("rtol", "atol"):
        if key in one and not (is_number(one[key]) and math.isfinite(one[key]) and one[key] >= 0):
            yield f".{key}: expected a number of at least 0, found {one[key]!r}"


def parse_golden(stated: object) -> tuple[Golden, ...]:
    """Read the golden requests of a manifest that has no issues."""
    keys = ("inputs", "outputs", "rtol", "atol")
    listed = stated if isinstance(stated, list) else []
    return tuple(Golden(**{key: one[key] for key in keys if key in one}) for one in listed)


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
