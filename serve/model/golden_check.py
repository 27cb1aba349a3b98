"""Golden requests: inputs whose outputs are known, carried by the manifest and asked before a model goes live.

A warm-up shows that a model answers; a golden request shows that it answers what its publisher saw. Pure: who asks the
model is `serve.model.warm_up`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serve.errors import CheckpointError

# What float32 loses when the order of a sum changes, as it does between batch sizes, threads and devices.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-5
_MOST_SHOWN = 3
_NUMBER = (int, float)


@dataclass(frozen=True)
class Golden:
    """One request and its right answer.

    Args:
        inputs: as the request has them.
        outputs: as the answer has them.
        rtol: how far a number may be off, as a share of the right one.
        atol: how far it may be off beyond that.
    """

    inputs: object
    outputs: object
    rtol: float = RELATIVE_TOLERANCE
    atol: float = ABSOLUTE_TOLERANCE

    def as_json(self) -> dict[str, object]:
        """Return it as it stands in a manifest."""
        return {"inputs": self.inputs, "outputs": self.outputs, "rtol": self.rtol, "atol": self.atol}


def golden_issues(stated: object) -> list[str]:
    """List what is wrong with the golden requests of a manifest.

    Args:
        stated: the value of its key `golden`; `None` where there is none.
    """
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
        if key in one and not (_is_number(one[key]) and math.isfinite(one[key]) and one[key] >= 0):
            yield f".{key}: expected a number of at least 0, found {one[key]!r}"


def parse_golden(stated: object) -> tuple[Golden, ...]:
    """Read the golden requests of a manifest that has no issues.

    Args:
        stated: the value of its key `golden`; `None` where there is none.
    """
    keys = ("inputs", "outputs", "rtol", "atol")
    listed = stated if isinstance(stated, list) else []
    return tuple(Golden(**{key: one[key] for key in keys if key in one}) for one in listed)


def require_golden(place: int, golden: Golden, actual: object) -> None:
    """Refuse a model that answers otherwise than its publisher saw.

    Args:
        place: of the request in the manifest's list.
        golden: the request and its right answer.
        actual: what the model answered.

    Raises:
        CheckpointError: naming the first differences and counting the rest.
    """
    issues = list(differences(golden.outputs, actual, golden.rtol, golden.atol))
    if issues:
        shown = "; ".join(f"golden[{place}].outputs{issue}" for issue in issues[:_MOST_SHOWN])
        rest = len(issues) - _MOST_SHOWN
        raise CheckpointError("golden", f"{shown}{f'; and {rest} more' if rest > 0 else ''}")


def differences(expected: object, actual: object, rtol: float, atol: float) -> Iterator[str]:
    """Compare two answers.

    Args:
        expected: the right one.
        actual: the other.
        rtol: how far a number may be off, as a share of the right one.
        atol: how far it may be off beyond that.

    Yields:
        One line for each difference, beginning with where it is.
    """
    if isinstance(expected, _NUMBER) and isinstance(actual, _NUMBER) and not _are_truths(expected, actual):
        if not abs(actual - expected) <= atol + rtol * abs(expected):
            yield f": expected {expected} ± {atol + rtol * abs(expected):g}, found {actual}"
    elif _is_list(expected) and _is_list(actual) and len(expected) == len(actual):  # type: ignore[arg-type]
        for place, (one, other) in enumerate(zip(expected, actual)):  # type: ignore[call-overload]
            yield from _under(f"[{place}]", differences(one, other, rtol, atol))
    elif isinstance(expected, Mapping) and isinstance(actual, Mapping) and set(expected) == set(actual):
        for key in sorted(expected, key=str):
            yield from _under(f".{key}", differences(expected[key], actual[key], rtol, atol))
    elif type(expected) is not type(actual) or _is_list(expected) or expected != actual:
        yield f": expected {_show(expected)}, found {_show(actual)}"


def _under(place: str, issues: Iterator[str]) -> Iterator[str]:
    return (place + issue for issue in issues)


def _are_truths(*values: object) -> bool:
    return any(isinstance(value, bool) for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _show(value: object) -> str:
    if _is_list(value):
        return f"a list of {len(value)}"  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return "an object with " + (", ".join(sorted(map(str, value))) or "no keys")
    return repr(value)[:80]
