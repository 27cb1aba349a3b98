"""Sketches of what requests ask and get, and what is read from them."""

from __future__ import annotations

import time

import numpy
import pytest

from serve.rollout import drift
from serve.rollout.evidence_board import EvidenceBoard, Guard


def sketches_of(inputs, answers):
    return dict(
        zip(drift.KINDS, (drift.sketch(inputs), drift.sketch(answers), (0.0, 0.0, drift.count_classes(answers))))
    )


def test_workers_add_up_and_the_figures_are_those_of_the_numbers(tmp_path):
    draw = numpy.random.default_rng(1)
    boards = [EvidenceBoard(tmp_path) for _ in range(2)]
    numbers = draw.normal(5.0, 2.0, (200, 16))
    for place, row in enumerate(numbers):
        boards[place % 2].note_sketches(place % 2, 3, sketches_of(row, numpy.array([[0.0, 1.0, 0.5]])))
        boards[0].note_sketches(0, 2, sketches_of(row, numpy.array([[1.0, 0.0, 0.5]])))
    found = EvidenceBoard(tmp_path).read_drift(3, 2)
    spread = found.spreads["inputs"]
    assert spread.count == numbers.size
    assert (spread.mean, spread.deviation) == pytest.approx((numbers.mean(), numbers.std()), rel=1e-4)
    ranked = numpy.sort(numbers, axis=None)
    assert [spread.p01, spread.p50, spread.p99] == pytest.approx(list(ranked[[31, 1599, 3167]]), rel=0.1)
    assert found.classes == {1: 1.0}
    assert found.scores["inputs"] < 0.01
    assert found.scores["classes"] > 1.0
    assert EvidenceBoard(tmp_path).read_drift(9, 0).spreads == {}


@pytest.mark.parametrize(
    ("mean", "deviation", "least", "most"), [(0.0, 1.0, 0.0, 0.05), (0.3, 1.0, 0.05, 0.3), (2.0, 1.0, 0.8, 9.0)]
)
def test_the_score_grows_with_the_distance(mean, deviation, least, most):
    draw = numpy.random.default_rng(2)
    now, then = (drift.sketch(tuple(draw.normal(*of, (20, 500))))[2] for of in ((mean, deviation), (0.0, 1.0)))
    assert least <= drift.stability_index(now.tolist(), then.tolist()) <= most


def test_whatever_a_module_takes_and_gives():
    odd = {"a": [numpy.array(["text"]), None], "b": (numpy.array([1, 2]), numpy.array([numpy.nan, numpy.inf, 1e300]))}
    total, _, counts = drift.sketch(odd)
    assert (total, counts.sum()) == (3 + 1e100, 3)
    assert drift.count_classes(numpy.array([3, 3, 90])).tolist() == [0, 0, 0, 2, *[0] * 59, 1]
    assert drift.count_classes(numpy.zeros((100, 2**16), "float32")).sum() == 17, "of long rows only some are compared"
    assert drift.sketch("no numbers")[2].sum() == drift.count_classes(None).sum() == 0
    assert drift.sketch(numpy.zeros(10**6))[2].sum() <= 1025


def test_a_sketch_is_made_of_tensors_too():
    torch = pytest.importorskip("torch")
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    assert drift.sketch({"x": values})[0] == 6.0
    assert drift.sketch(values.bfloat16())[0] == 6.0
    assert drift.count_classes(values)[:2].tolist() == [1, 1]
    assert drift.count_classes(torch.tensor([5, 5]))[5] == 2


def test_sketching_takes_its_share_of_the_time_and_no_more(tmp_path):
    guard, asked, began_s = Guard(drift_share=0.1), [], time.monotonic()
    guard.open(EvidenceBoard(tmp_path), 0, lambda: (0, 0), is_counting=False)

    def read():
        asked.append(time.sleep(0.01))
        return numpy.ones(3), numpy.ones((1, 2))

    while time.monotonic() - began_s < 0.5:
        guard.sketch(1, read)
    assert 1 <= len(asked) <= 1 + (time.monotonic() - began_s) / 0.11
    assert not guard.note_run(1, 1, 1, 0.1)
    assert guard.board.read(1, 0, 0.0).answers == 0
    assert guard.board.read_drift(1, 0).spreads["inputs"].count == 3 * len(asked)
    Guard().sketch(1, read)
    assert len(asked) <= 6
