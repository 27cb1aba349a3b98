"""Answers: their values beside those that the publisher saw, their form beside another version's, their faults. Pure.

Two versions of a model may answer differently; they may not answer in another form, or every client breaks at the
instant of a swap that no test of a client foresaw. A form is written as text, for example `number[1, 3]` or `{label:
text[1], scores: number[1, 3]}`; what a class may declare of its answers, `docs/reference/model-class.md` has."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

import numpy

from serve.errors import TrialError
from serve.rollout.decision import FINITE, RANGE, UNHEALTHY

_NUMBER = (int, float)


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


def disagreements(expected: object, actual: object, how: str, tolerances: tuple[float, float]) -> list[str]:
    """List the `differences`: within a relative and an absolute `tolerance`, `exact`, or by the place of the `top1`."""
    if how == "top1":
        expected, actual = find_top(expected), find_top(actual)
    return list(differences(expected, actual, *(tolerances if how == "tolerance" else (0.0, 0.0))))


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


def require_json(outputs: object) -> None:
    """Refuse outputs that JSON cannot hold, with the place of the first such part and the way out."""
    try:
        json.dumps(outputs, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        place, found, hint = OUTPUTS, str(error), _OTHER_TYPES
        with contextlib.suppress(RecursionError):
            place, found, hint = next(_find_unfit(outputs, OUTPUTS), (place, found, hint))
        raise TrialError("warm-up", f"{place}: expected what JSON can hold, found {found}", hint) from error


_OTHER_TYPES = "return lists, numbers, texts and None from tensors_to_outputs()"


def _find_unfit(value: object, place: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _find_unfit(part, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _find_unfit(part, f"{place}[{number}]")
    elif isinstance(value, complex):
        yield place, f"{value}", "make real numbers of it in tensors_to_outputs(), such as torch.view_as_real() does"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield place, f"{value}", "give another number, or None, in its place in tensors_to_outputs()"
    elif value is not None and not isinstance(value, (str, int)):
        yield place, f"{type(value).__name__}", _OTHER_TYPES


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


INPUTS, OUTPUTS = "inputs", "outputs"  # the name of the only input, and of the only output, of a model that names none
TEXT = "text"


@dataclass(frozen=True)
class ArrayForm:
    """One named input or output: `dtype` is NumPy's name or `text`, and `None` in `shape` stands for any length."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


Fault = tuple[str, str]


class Declared(NamedTuple):
    """What a model class declares of its answers."""

    range: tuple[float, float] | None = None
    values: Collection[object] | None = None
    healthy: Callable[[Any, Any], object] | None = None
    agree: Callable[[Any, Any], object] | None = None


NOTHING = Declared()
NOT_FINITE: Fault = (FINITE, "found NaN or an infinity")


def is_finite(array: Any) -> bool:
    """Whether all numbers of an array are finite."""
    if array.dtype.kind not in "fc":
        return True
    # A tenth of the time of isfinite; where squares overflow, that decides.
    return math.isfinite(abs(numpy.vdot(array, array))) or bool(numpy.isfinite(array).all())


def find_fault(answer: object, declared: Declared) -> Fault | None:
    """Find what is wrong with an answer in arrays or plain values: the signal, and the reason in words."""
    for leaf in _leaves(answer):
        if isinstance(leaf, numpy.ndarray):
            fault = _check_array(leaf, declared)
        elif isinstance(leaf, float) and not math.isfinite(leaf):
            fault = FINITE, f"found {leaf}"
        else:
            fault = _check_number(leaf, leaf, declared) or _check_values([leaf], declared)
        if fault is not None:
            return fault
    return None


def ask_healthy(declared: Declared, prepared: object, outputs: object) -> Fault | None:
    """Ask the model class."""
    if declared.healthy is None:
        return None
    try:
        verdict = declared.healthy(prepared, outputs)
    except Exception as error:  # the user's code may raise anything
        return UNHEALTHY, f"healthy() failed: {error!r}"
    if verdict is False or (isinstance(verdict, str) and verdict):
        return UNHEALTHY, str(verdict or "healthy() returned False")
    return None


def _check_array(array: Any, declared: Declared) -> Fault | None:
    if not is_finite(array):
        return NOT_FINITE
    if declared.range is not None and array.size and array.dtype.kind in "fiu":
        fault = _check_number(array.min(), array.max(), declared)
        if fault is not None:
            return fault
    if declared.values is None or array.dtype.kind not in "iuUO":
        return None
    return _check_values(numpy.unique(array).tolist(), declared)


def _check_number(least: Any, most: Any, declared: Declared) -> Fault | None:
    if declared.range is None or isinstance(least, (bool, str)) or least is None:
        return None
    low, high = declared.range
    return None if low <= least and most <= high else (RANGE, f"found {least} to {most}, declared {low} to {high}")


def _check_values(leaves: Collection[object], declared: Declared) -> Fault | None:
    if declared.values is None:
        return None
    others = [leaf for leaf in leaves if type(leaf) in (int, str) and leaf not in declared.values]
    return (RANGE, f"found {others[0]!r}, which is not declared") if others else None


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
