"""Rows of numbers as JSON has them: the quick way gives what torch gives, or nothing."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not in this interpreter; run these in the created environment")

from serve.model.inputs import read_rows  # noqa: E402

whole = st.integers(-(2**63), 2**63 - 1) | st.booleans()
KINDS = {"float32": st.floats() | whole, "float64": st.floats() | whole, "int64": whole}
other = st.none() | st.text(max_size=2) | st.dictionaries(st.text(), st.none(), max_size=1) | st.lists(st.none())
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4)


def rows_of(element, shape):
    for length in reversed(shape):
        element = st.lists(element, min_size=length, max_size=length)
    return element


@given(st.data(), st.sampled_from(sorted(KINDS)), shapes)
def test_rows_are_as_torch_has_them(data, dtype, shape):
    inputs = data.draw(rows_of(KINDS[dtype], shape))
    found = read_rows(inputs, dtype, shape[1:])
    expected = torch.tensor(inputs, dtype=getattr(torch, dtype)).numpy()
    assert found.dtype == expected.dtype
    numpy.testing.assert_array_equal(found, expected)


@given(st.data(), st.sampled_from(sorted(KINDS)), shapes)
def test_nothing_comes_of_rows_with_something_else_in_them(data, dtype, shape):
    is_whole = dtype == "int64"
    wrong = other | st.floats() | st.integers(min_value=2**63) if is_whole else other | st.integers(min_value=2**1024)
    inputs = data.draw(rows_of(KINDS[dtype], shape))
    place = inputs
    for length in shape[:-1]:
        place = place[data.draw(st.integers(0, length - 1))]
    place[data.draw(st.integers(0, shape[-1] - 1))] = data.draw(wrong)
    assert read_rows(inputs, dtype, shape[1:]) is None


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        [],
        {},
        "12",
        [1, 2],
        [[1]],
        [[1, 2], [3]],
        [[1, 2], (3, 4)],
        [["1", "2"]],
        [[None, 1]],
        [[[1], [2]]],
        [[1, 2**70]],
    ],
)
def test_what_is_refused(inputs):
    assert read_rows(inputs, "int64", (2,)) is None


def test_a_type_that_this_does_not_know():
    assert read_rows([[1.0]], "float16", (1,)) is None


def test_too_large_numbers_are_infinite():
    assert math.isinf(read_rows([[1e39]], "float32", (1,))[0, 0])


def test_rows_of_nothing_but_rows():
    assert read_rows([1, 2, 3], "int64", ()).tolist() == [1, 2, 3]
