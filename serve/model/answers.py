"""Comparison of answers: their values with those that the publisher saw, their form with that of another version. Pure.

Two versions of a model may answer differently; they may not answer in another form, or every client breaks at the
instant of a swap that no test of a client foresaw. A form is written as text, for example `number[1, 3]` or
`{label: text[1], scores: number[1, 3]}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from serve.errors import CheckpointError, TrialError

if TYPE_CHECKING:
    from serve.checkpoint.manifest import Golden

_MOST_SHOWN = 3
_NUMBER = (int, float)


def require_golden(place: int, golden: Golden, actual: object) -> None:
    """Refuse a model that answers otherwise than its publisher saw."""
    issues = list(differences(golden.outputs, actual, golden.rtol, golden.atol))
    if issues:
        shown = "; ".join(f"golden[{place}].outputs{issue}" for issue in issues[:_MOST_SHOWN])
        rest = len(issues) - _MOST_SHOWN
        raise CheckpointError("golden", f"{shown}{f'; and {rest} more' if rest > 0 else ''}")


def differences(expected: object, actual: object, rtol: float, atol: float) -> Iterator[str]:
    """Compare two answers. Yields one line for each difference, beginning with where it is."""
    are_truths = isinstance(expected, bool) or isinstance(actual, bool)
    if isinstance(expected, _NUMBER) and isinstance(actual, _NUMBER) and not are_truths:
        if not abs(actual - expected) <= atol + rtol * abs(expected):
            yield f": expected {expected} ± {atol + rtol * abs(expected):g}, found {actual}"
    elif _is_list(expected) and _is_list(actual) and len(expected) == len(actual):  # type: ignore[arg-type]
        for place, (one, other) in enumerate(zip(expected, actual)):  # type: ignore[call-overload]
            yield from (f"[{place}]{issue}" for issue in differences(one, other, rtol, atol))
    elif isinstance(expected, Mapping) and isinstance(actual, Mapping) and set(expected) == set(actual):
        for key in sorted(expected, key=str):
            yield from (f".{key}{issue}" for issue in differences(expected[key], actual[key], rtol, atol))
    elif type(expected) is not type(actual) or _is_list(expected) or expected != actual:
        yield f": expected {_show(expected)}, found {_show(actual)}"


def find_top(value: object) -> object:
    """Replace the innermost lists of numbers by the place of their largest one."""
    if isinstance(value, Mapping):
        return {key: find_top(part) for key, part in value.items()}
    if not _is_list(value):
        return value
    parts: Sequence[object] = value  # type: ignore[assignment]
    if parts and all(isinstance(part, _NUMBER) for part in parts):
        return max(range(len(parts)), key=lambda place: parts[place])  # type: ignore[arg-type, return-value]
    return [find_top(part) for part in parts]


def as_json(outputs: object) -> object:
    """Return outputs as a client reads them: tuples become lists."""
    return json.loads(json.dumps(outputs))


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _show(value: object) -> str:
    if _is_list(value):
        return f"a list of {len(value)}"  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return "an object with " + (", ".join(sorted(map(str, value))) or "no keys")
    return repr(value)[:80]


MIXED = "mixed"


def describe(value: object) -> str:
    """Write the form of a value; lists whose parts differ in form are `mixed`, whatever is in them."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, (list, tuple)):
        forms = {describe(part) for part in value}
        form = forms.pop() if len(forms) == 1 else "{"
        if form.startswith("{"):
            return f"{MIXED}[{len(value)}]"
        inner, bracket, lengths = form.partition("[")
        return f"{inner}[{len(value)}{', ' + lengths if bracket else ']'}"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else "null"


def require_same_form(expected: Mapping[str, str], actual: Mapping[str, str], of: str) -> None:
    """Refuse a model whose requests or answers have another form; a name that only one of both has is passed over."""
    issues = [
        f"{name}: expected {expected[name]}, found {actual[name]}"
        for name in sorted(set(expected) & set(actual))
        if expected[name] != actual[name]
    ]
    if issues:
        hint = 'set changed_interface = "allow" to have it served all the same'
        raise TrialError("interface", f"it answers in another form than {of}: {'; '.join(issues)}", hint)
