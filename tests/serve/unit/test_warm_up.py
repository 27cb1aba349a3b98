from __future__ import annotations

import threading
import time

import pytest
from predictors import Times

from serve.checkpoint.manifest import Golden
from serve.errors import CheckpointError
from serve.model.answers import ArrayForm, require_json
from serve.model.warm_up import Candidate, warm_up


class Doubling(Times):
    """Answers with twice the inputs, and remembers how many rows it was asked."""

    def __init__(self):
        super().__init__(2)
        self.asked = []

    def predict(self, inputs):
        self.asked.append(len(inputs))
        return [[2 * value for value in row] for row in inputs]


def assert_refused(candidate, code, timeout_s=30.0, sizes=()):
    with pytest.raises(CheckpointError) as caught:
        warm_up(candidate, sizes, timeout_s)
    assert caught.value.code == code
    return caught.value.message


def test_it_runs_at_every_size_and_tells_the_form():
    model = Doubling()
    tried = warm_up(Candidate(model, [[1], [2]], examine=lambda: "examined"), (1, 5), 30.0)
    assert tried.form == {"inputs": "number[2, 1]", "outputs": "number[2, 1]"}
    assert (tried.examined, tried.outputs) == ("examined", (ArrayForm("outputs", "float32", (None, 1)),))
    assert model.asked == [2, 2, 1, 1, 5, 5]


def test_sizes_need_rows():
    class Whole(Doubling):
        def predict(self, inputs):
            return 1

    assert "expected example_inputs of rows, found text" in assert_refused(
        Candidate(Whole(), "text"), "warm-up", sizes=(2,)
    )


def test_golden_requests_are_asked():
    good, bad = Golden([[3]], [[6]]), Golden([[3]], [[7]])
    warm_up(Candidate(Doubling(), [[1]], [good]), (), 30.0)
    message = assert_refused(Candidate(Doubling(), [[1]], [good, bad]), "golden")
    assert message.startswith("golden[1].outputs[0][0]: expected 7")
    assert "golden[0]: expected an answer, found TypeError" in assert_refused(
        Candidate(Doubling(), [[1]], [Golden(5, 5)]), "golden"
    )


def test_the_models_own_check_has_the_last_word():
    def fail(model):
        raise ValueError(f"{model.predict([[1]])} is too much")

    for validate in (None, lambda model: None, lambda model: True):
        warm_up(Candidate(Doubling(), [[1]], validate=validate), (), 30.0)
    assert "ValueError: [[2]] is too much" in assert_refused(Candidate(Doubling(), [[1]], validate=fail), "validate")
    assert "found False" in assert_refused(Candidate(Doubling(), [[1]], validate=lambda model: False), "validate")


@pytest.mark.parametrize("raised", [RuntimeError("boom"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_is_raised_is_a_refusal(raised):
    class Raising(Doubling):
        def predict(self, inputs):
            raise raised

    assert_refused(Candidate(Raising(), [[1]]), "warm-up")


def test_what_hangs_is_refused_at_the_deadline_and_ends():
    class Hanging(Doubling):
        def predict(self, inputs):
            while True:
                time.sleep(0.01)

    started_s = time.monotonic()
    assert "within 0.2 s" in assert_refused(Candidate(Hanging(), [[1]]), "warm-up", timeout_s=0.2)
    assert time.monotonic() - started_s < 10
    until_s = time.monotonic() + 30
    while any(thread.name == "warm-up" for thread in threading.enumerate()):
        assert time.monotonic() < until_s, "the thread still hangs"
        time.sleep(0.01)


def test_a_model_whose_example_is_null_has_outputs_all_the_same():
    class Constant(Times):
        def prepare(self, inputs):
            return super().prepare([1])

        def predict(self, inputs):
            return [2]

    assert warm_up(Candidate(Constant(), None), (), 30.0).outputs == (ArrayForm("outputs", "float32", (None,)),)


@pytest.mark.parametrize(
    ("outputs", "says", "hint"),
    [
        ([[1.0, float("-inf")]], "outputs[0][1]: expected what JSON can hold, found -inf", "another number, or None"),
        ({"a": (1, {"b": float("nan")})}, "outputs.a[1].b: expected what JSON can hold, found nan", "or None"),
        ([1, 2 + 1j], "outputs[1]: expected what JSON can hold, found (2+1j)", "view_as_real"),
        ({"a": [{1, 2}]}, "outputs.a[0]: expected what JSON can hold, found set", "return lists, numbers"),
        ({(1, 2): 3}, "outputs: expected what JSON can hold, found keys must be str", "return lists, numbers"),
    ],
)
def test_outputs_that_json_cannot_hold_are_refused_with_their_place_and_the_way_out(outputs, says, hint):
    class Odd(Doubling):
        def predict(self, inputs):
            return outputs

    with pytest.raises(CheckpointError) as caught:
        warm_up(Candidate(Odd(), [[1]]), (), 30.0)
    assert caught.value.message.startswith(says)
    assert hint in caught.value.hint


def test_outputs_that_are_nested_without_end_are_refused():
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(CheckpointError, match="outputs: expected what JSON can hold, found maximum recursion"):
        require_json(deep)
