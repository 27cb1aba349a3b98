"""What the loader makes of models that keep something, change their weights, or cannot be batched."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from trainer import ROW, sha256_of

pytestmark = pytest.mark.needs_torch
pytest.importorskip("torch")

from serve.checkpoint.manifest import Manifest  # noqa: E402
from serve.errors import CheckpointError  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402
from serve.store.checkpoint_store import Stored  # noqa: E402

SUPPORT = Path(__file__).parents[1] / "support"


def load(tmp_path, path, model, **settings):
    """Load a checkpoint, and return the predictor and what was said."""
    environ = {"SERVE_MODEL": model, "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT), **settings}
    said = {}
    loader = ModelLoader(
        load_settings(environ, tmp_path).find(), say=lambda event, **facts: said.update({event: facts})
    )
    predictor = loader.load(Stored(path, sha256_of(path), path.stat().st_size), Manifest()).predictor
    return predictor, said


def test_a_model_that_keeps_its_rows_while_it_runs_is_named_and_runs_one_at_a_time(tmp_path, trainer):
    path = trainer.train(1)
    predictor, said = load(tmp_path, path, "affine:Keeping")
    assert said["state_kept"]["attributes"] == ("self.rows",)
    assert predictor.can_batch
    rows = [[number, *ROW[1:]] for number in range(8)]
    answers = {}

    def ask(place):
        answers[place] = predictor.predict([rows[place]])

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {place: [trainer.expected(sha256_of(path), row)] for place, row in enumerate(rows)}


def test_weights_that_change_by_answering_are_refused_unless_that_is_meant(tmp_path, trainer):
    path = trainer.train(1)
    with pytest.raises(CheckpointError, match=r"layer\.bias: expected weights that stay") as caught:
        load(tmp_path, path, "affine:Drifting")
    assert caught.value.code == "stateful"
    predictor, said = load(tmp_path, path, "affine:Drifting", SERVE_STATEFUL="allow")
    assert predictor.versions.written() == ["layer.bias"]
    assert (predictor.can_batch, "not_batched" in said) == (False, True)


def test_why_a_model_is_not_batched_is_said(tmp_path, trainer):
    assert "not_batched" not in load(tmp_path, trainer.train(1), "affine:Affine")[1]
    assert load(tmp_path, trainer.train(1), "affine:Slow")[1]["not_batched"] == {"reason": "batchable is False"}


def test_memory_is_compared_with_the_checkpoint(tmp_path, trainer):
    path = trainer.train(1)
    environ = {"SERVE_MODEL": "affine:Affine", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
    loader = ModelLoader(load_settings(environ, tmp_path).find())
    predictor = loader.load(Stored(path, sha256_of(path), path.stat().st_size), Manifest()).predictor
    assert loader.compare(predictor) == (2, [])
    predictor.module.layer.weight.data.view(-1)[3] += 1
    assert loader.compare(predictor) == (2, ["layer.weight"])
    predictor.module.layer.bias.data[0] = float("nan")
    assert sorted(loader.compare(predictor)[1]) == ["layer.bias", "layer.weight"]
