from __future__ import annotations

import math

import pytest

from serve.checkpoint.manifest import Golden, golden_issues, parse_golden
from serve.errors import CheckpointError
from serve.model.answers import differences
from serve.model.warm_up import require_golden


@pytest.mark.parametrize(
    ("expected", "actual", "issues"),
    [
        ([1.0, 2], [1.0005, 2], []),
        ([1.0, 2], [1.1, 2], ["[0]: expected 1.0 ± 0.00101, found 1.1"]),
        (0.0, math.nan, [": expected 0.0 ± 1e-05, found nan"]),
        ([1, 2], [1], [": expected a list of 2, found a list of 1"]),
        ({"a": [1]}, {"a": [2]}, [".a[0]: expected 1 ± 0.00101, found 2"]),
        ({"a": 1}, {"b": 1}, [": expected an object with a, found an object with b"]),
        ("cat", "dog", [": expected 'cat', found 'dog'"]),
        ("cat", "cat", []),
        (True, 1, [": expected True, found 1"]),
        (None, None, []),
        ([], {}, [": expected a list of 0, found an object with no keys"]),
    ],
)
def test_answers_are_compared_number_by_number(expected, actual, issues):
    assert list(differences(expected, actual, 1e-3, 1e-5)) == issues


def test_the_tolerance_is_the_requests_own():
    (golden,) = parse_golden([{"inputs": 0, "outputs": 10, "rtol": 0, "atol": 0.5}])
    require_golden(0, golden, 10.5)
    with pytest.raises(CheckpointError) as caught:
        require_golden(2, golden, 10.6)
    assert (caught.value.code, caught.value.message) == ("golden", "golden[2].outputs: expected 10 ± 0.5, found 10.6")


def test_many_differences_are_counted():
    with pytest.raises(CheckpointError, match="; and 2 more"):
        require_golden(0, Golden(None, [0] * 5), [1] * 5)


def test_every_issue_says_where():
    assert golden_issues(None) == golden_issues([]) == []
    assert golden_issues({}) == ["golden: expected a list of requests, found dict"]
    assert golden_issues([5, {"inputs": 1, "outputs": 2, "rtol": -1, "atol": "x"}]) == [
        'golden[0]: expected {"inputs": …, "outputs": …}',
        "golden[1].rtol: expected a number of at least 0, found -1",
        "golden[1].atol: expected a number of at least 0, found 'x'",
    ]
