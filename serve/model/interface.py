"""The form of answers: what a client must know of them, without their values.

Two versions of a model may answer differently; they may not answer in another form, or every client breaks at the
instant of a swap that no test of a client foresaw. A form is written as text, for example `number[1, 3]` or
`{label: text[1], scores: number[1, 3]}`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from serve.errors import TrialError

MIXED = "mixed"


def describe(value: object) -> str:
    """Write the form of a value.

    Returns:
        Its form. Lists whose parts differ in form are `mixed`, whatever is in them.
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, (list, tuple)):
        return _describe_list(value)
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else "null"


def _describe_list(value: list[object] | tuple[object, ...]) -> str:
    forms = {describe(part) for part in value}
    if len(forms) != 1:
        return f"{MIXED}[{len(value)}]"
    inner, bracket, lengths = forms.pop().partition("[")
    return f"{inner}[{len(value)}{', ' + lengths if bracket else ']'}" if inner[:1] != "{" else f"{MIXED}[{len(value)}]"


def require_same_form(expected: Mapping[str, str], actual: Mapping[str, str], of: str) -> None:
    """Refuse a model whose requests or answers have another form.

    Args:
        actual: those of the new model; a name that only one of both has is passed over.
    """
    issues = [
        f"{name}: expected {expected[name]}, found {actual[name]}"
        for name in sorted(set(expected) & set(actual))
        if expected[name] != actual[name]
    ]
    if issues:
        raise TrialError(
            "interface",
            f"it answers in another form than {of}: {'; '.join(issues)}",
            hint='set changed_interface = "allow" to have it served all the same',
        )
