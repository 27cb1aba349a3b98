from __future__ import annotations

import pytest
from predictors import go_live, make_server

from serve.errors import NotServedError
from serve.inference.prediction import Model, ModelSpec

TOML = """
model = "m:M"
[models.a]
checkpoints = "ck/a"
[models.a.canary]
checkpoints = "ck/next"
share = 0.25
[models.a.shadow]
checkpoints = "ck/dark"
share = 0.5
[models.b]
checkpoints = "ck/b"
"""


@pytest.fixture
def labels(tmp_path):
    labels = make_server(tmp_path, TOML).find("a").labels
    for label, version in (("stable", "v1"), ("canary", "v2"), ("shadow", "v3")):
        go_live(labels[label], version=version)
    return labels


def drawn(labels, number):
    return Model("a", labels, lambda: number)


@pytest.mark.parametrize(
    ("number", "label"), [(0.0, "canary"), (0.2499, "canary"), (0.25, "stable"), (0.999, "stable")]
)
def test_a_canary_answers_its_share(labels, number, label):
    assert drawn(labels, number).choose(ModelSpec()) is labels[label]


def test_a_canary_that_is_not_live_answers_nothing(labels):
    labels["canary"].slot.vacate()
    assert drawn(labels, 0.0).choose(ModelSpec()) is labels["stable"]


def test_a_label_or_a_version_can_be_asked_for(labels):
    model = drawn(labels, 0.0)
    assert model.choose(ModelSpec(label="stable")) is labels["stable"]
    assert model.choose(ModelSpec(version="v1")) is labels["stable"]
    assert model.choose(ModelSpec(version="v2")) is labels["canary"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec(label="shadow"), "a: label: expected stable, canary, found shadow"),
        (ModelSpec(label="gold"), "a: label: expected stable, canary, found gold"),
        (ModelSpec(version="v3"), "a: version: expected v2, v1, found v3"),
    ],
)
def test_what_cannot_be_asked_for(labels, spec, message):
    with pytest.raises(NotServedError) as caught:
        drawn(labels, 0.0).choose(spec)
    assert caught.value.message == message


def test_a_shadow_is_asked_for_its_share(labels):
    assert drawn(labels, 0.49).compare_with(labels["stable"]) is labels["shadow"]
    assert drawn(labels, 0.5).compare_with(labels["stable"]) is None


def test_a_server_of_several_models_must_be_told_which(tmp_path):
    server = make_server(tmp_path, TOML)
    assert server.find("b").name == "b"
    with pytest.raises(NotServedError, match="expected a or b, found none"):
        server.find(None)
