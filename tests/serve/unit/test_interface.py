from __future__ import annotations

import pytest

from serve.errors import CheckpointError
from serve.model.answers import describe, require_same_form


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (1, "number"),
        (0.5, "number"),
        (True, "boolean"),
        (None, "null"),
        ("a", "text"),
        ([], "mixed[0]"),
        ([1, 2.5], "number[2]"),
        ([[1, 2, 3], (4, 5, 6)], "number[2, 3]"),
        ([[1], [2, 3]], "mixed[2]"),
        ([1, "a"], "mixed[2]"),
        ({"b": [1], "a": "x"}, "{a: text, b: number[1]}"),
        ([{"a": [1]}], "mixed[1]"),
    ],
)
def test_forms(value, form):
    assert describe(value) == form


def test_what_only_one_side_states_is_passed_over():
    require_same_form({"outputs": "number[1]"}, {"inputs": "text"}, "anybody")
    require_same_form({}, {"inputs": "text"}, "anybody")


def test_each_difference_is_named():
    with pytest.raises(CheckpointError) as caught:
        require_same_form({"inputs": "a", "outputs": "number[2]"}, {"inputs": "b", "outputs": "number[3]"}, "the other")
    assert caught.value.code == "interface"
    assert "than the other: inputs: expected a, found b; outputs: expected number[2], found number[3]" in str(
        caught.value
    )
