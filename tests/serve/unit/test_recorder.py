"""The recorder keeps the share and the number that it was told, and choosing spreads over the answers."""

from __future__ import annotations

import base64
import json
import math
import os
import random
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from serving import wait_until

from serve.errors import PublishError, SettingsError
from serve.inference.recorder import Recorder, read_recorded
from serve.publishing.golden import choose, find_recorded, make_golden, plot, replay

PROVENANCE = SimpleNamespace(version="v", generation=1, sha256="a" * 64, env_digest=None)


def make_recorder(tmp_path, share, keep=1000, key=None):
    settings = SimpleNamespace(store=tmp_path, record_keep=keep, record_share=share, record_redact="", record_key=key)
    return Recorder(settings, lambda event, **facts: pytest.fail(f"{event} {facts}"))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.003])
def test_each_request_has_the_same_chance(tmp_path, share):
    random.seed(7)
    recorder = make_recorder(tmp_path, share)
    asked, due = 60_000, 0
    for _ in range(asked):
        if recorder.is_due():
            due += 1
            recorder._left = recorder._draw()
    assert abs(due - asked * share) < 5 * math.sqrt(asked * share)


@pytest.mark.parametrize("keep", [1, 3, 40])
def test_the_newest_are_kept_and_the_file_is_bounded(tmp_path, keep):
    recorder = make_recorder(tmp_path, 1.0, keep)
    for number in range(5 * keep):
        recorder._write(json.dumps({"inputs": number, "outputs": []}).encode() + b"\n")
    path = tmp_path / "recorded.jsonl"
    assert len(path.read_bytes().splitlines()) <= 2 * keep + keep // 8 + 1
    with path.open("ab") as file:
        file.write(b'{"inputs": 7, "outp')  # a worker that was killed
    assert [one["inputs"] for one in read_recorded(path, keep)] == list(range(5 * keep))[-keep:]


def test_half_a_line_costs_no_other_one(tmp_path):
    recorder, path = make_recorder(tmp_path, 1.0), tmp_path / "recorded.jsonl"
    path.write_bytes(b'{"inputs": 7, "outp')
    for number in range(3):
        recorder._write(json.dumps({"inputs": number, "outputs": []}).encode() + b"\n")
    assert [one["inputs"] for one in read_recorded(path, 9)] == [0, 1, 2]


def test_a_request_that_is_too_long_is_not_written(tmp_path):
    recorder = make_recorder(tmp_path, 1.0)
    with pytest.raises(ValueError, match="expected at most 1048576 bytes"):
        recorder._write(b"x" * (1 << 20) + b"\n")
    assert not (tmp_path / "recorded.jsonl").exists()


def test_the_chosen_are_far_apart():
    random.seed(3)
    clusters = [(0.0, 0.0), (100.0, 0.0), (0.0, 5.0), (-100.0, 5.0)]
    recorded = [
        {"inputs": place, "outputs": [[clusters[place % 4][axis] + random.random() / 100 for axis in (0, 1)]]}
        for place in range(200)
    ]
    assert {one["inputs"] % 4 for one in choose(recorded, 4)} == {0, 1, 2, 3}


@pytest.mark.parametrize("outputs", [[["cat"]], [{"label": "cat", "score": 0.5}], [None], [], [True]])
def test_equal_answers_of_any_form_give_one(outputs):
    recorded = [{"inputs": place, "outputs": outputs} for place in range(9)]
    assert len(choose(recorded, 5)) == 1
    assert len(choose([*recorded, {"inputs": 9, "outputs": ["dog", 7]}], 5)) == 2


class Noisy:
    """Answers by its weight, and differently each time by its noise."""

    def __init__(self, weight, noise=0.0):
        self.weight, self.noise, self.count = weight, noise, 0

    def predict(self, inputs):
        if inputs == "bad":
            raise RuntimeError("bad")
        self.count += 1
        return [[inputs * self.weight * (1 + self.noise * (self.count % 2)), 1.0]]


def test_tolerances_are_measured():
    recorded = [{"inputs": 2.0, "outputs": [[4.0, 1.0]]}]
    (steady,) = make_golden(recorded, Noisy(3.0))
    assert (steady["outputs"], steady["rtol"]) == ([[6.0, 1.0]], 1e-3)
    (noisy,) = make_golden(recorded, Noisy(3.0, 0.01))
    assert 0.03 < noisy["rtol"] < 0.05
    assert make_golden(recorded, None) == recorded


@pytest.mark.parametrize(
    ("compare", "agreed"), [("tolerance", 2), ("exact", 1), ("top1", 3)], ids=["tolerance", "exact", "top1"]
)
def test_what_another_model_would_have_answered(compare, agreed):
    recorded = [
        {"inputs": 2.0, "outputs": [[4.0, 1.0]]},
        {"inputs": 3.0, "outputs": [[6.0001, 1.0]]},
        {"inputs": 5.0, "outputs": [[12.5, 1.0]]},
        {"inputs": 0.0, "outputs": [[1.0, 0.0]]},
        {"inputs": "bad", "outputs": [[1.0, 0.0]]},
    ]
    found = replay(recorded, Noisy(2.0), compare)
    assert (found.requests, found.agreed, found.failed) == (5, agreed, {4: "RuntimeError: bad"})
    assert found.worst == (3, 1.0)
    assert sum(found.spread.values()) == 4
    assert found.spread["1e-06"] == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_answer_that_is_not_finite_is_as_far_as_can_be_and_never_golden(bad):
    recorded = [{"inputs": 2.0, "outputs": [[4.0, 1.0]]}]
    found = replay(recorded, Noisy(bad), "tolerance")
    assert (found.agreed, found.spread["1e-06"], found.spread["more"]) == (0, 0, 1)
    json.loads(json.dumps(found.as_json(), allow_nan=False))
    with pytest.raises(PublishError, match="not finite"):
        make_golden(recorded, Noisy(bad))


def test_a_request_that_fails_is_never_golden():
    with pytest.raises(PublishError, match="RuntimeError: bad"):
        make_golden([{"inputs": "bad", "outputs": []}], Noisy(1.0))


def test_with_a_key_no_plain_byte_reaches_the_disk(tmp_path):
    pytest.importorskip("cryptography", reason="the extra sign is not installed")
    key, other, path = tmp_path / "record.key", tmp_path / "other.key", tmp_path / "recorded.jsonl"
    for each in (key, other):
        each.write_bytes(base64.urlsafe_b64encode(os.urandom(32)) + b"\n")
    recorder = make_recorder(tmp_path, 1.0, key=key)
    for _ in range(3):
        recorder.offer(lambda given: given.prepare(["a secret"]), [1.5], PROVENANCE)
    wait_until(lambda: path.exists() and len(path.read_bytes().splitlines()) == 3, "three lines")
    with path.open("ab") as file:
        file.write(b"gAAAAAB")  # a worker that was killed
    assert b"secret" not in path.read_bytes()
    found = read_recorded(path, 9, key)
    assert [(one["inputs"], one["outputs"]) for one in found] == [(["a secret"], [1.5])] * 3
    assert read_recorded(path, 9, other) == read_recorded(path, 9) == []
    settings = SimpleNamespace(store=tmp_path, record_keep=9, record_key=None)
    with pytest.raises(PublishError) as raised:
        find_recorded(settings, None)
    assert "encrypted" in raised.value.hint
    other.write_bytes(b"short")
    for bad in (other, tmp_path / "absent"):
        with pytest.raises(SettingsError, match="record_key"):
            make_recorder(tmp_path, 1.0, key=bad)


def test_the_plot_is_a_drawing_with_a_point_for_each_number():
    recorded = [{"inputs": place, "outputs": [float(place), -1.0]} for place in range(5)]
    predictor = SimpleNamespace(predict=lambda place: [place * 1.0, -1.0 if place < 4 else 3.0])
    found = replay(recorded, predictor, "tolerance")
    root = ElementTree.fromstring(plot(found, "a <b>"))
    dots = [one for one in root if one.tag.endswith("circle")]
    assert len(dots) == 10
    assert sum(one.get("fill") == "#c33" for one in dots) == 2
    assert "4 of 5 answers agree" in "".join(root.itertext())
    assert "pairs" not in found.as_json()
    assert ElementTree.fromstring(plot(replay([], predictor, "exact"), "nothing")) is not None
