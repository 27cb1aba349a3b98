"""A canary takes the place of the stable label by its rule, on real gunicorn under load."""

from __future__ import annotations

import pytest
from serving import wait_until
from test_several_models import ask, wait_live

from serve.publishing.publish import publish

pytestmark = pytest.mark.needs_torch

TOML = """
[models.a]
model = "affine:Affine"
checkpoints = "a"
[models.a.canary]
checkpoints = "a-next"
share = 0.5
promote = {requests = 60, errors = 0}
"""


def test_a_canary_is_promoted_in_all_workers(tmp_path, start_server, trainer):
    (tmp_path / "serve.toml").write_text(TOML)
    for name in ("a", "a-next"):
        (tmp_path / name).mkdir()
    publish(trainer.train(1), tmp_path / "a", "m.safetensors", "v1")
    server = start_server(model=None, name=None, checkpoints=None)
    wait_live(server, "a", "stable", 1)
    canary = publish(trainer.train(2), tmp_path / "a-next", "m.safetensors", "v2")
    wait_live(server, "a", "canary", 1)
    client = server.client()
    sides = {key: {ask(client, "/predict", {"X-Canary-Key": key}).sha256 for _ in range(6)} for key in "abcdefgh"}
    assert {len(answered) for answered in sides.values()} == {1}
    assert len(set.union(*sides.values())) == 2

    def is_promoted():
        ask(client, "/predict")
        return server.events("promoted")

    (promoted,) = wait_until(is_promoted, "the promotion", lambda: server.text)
    assert (promoted["label"], promoted["sha256"]) == ("canary", canary.sha256)
    wait_live(server, "a", "stable", 2)
    replies = [ask(server.client(), "/predict") for _ in range(12)]
    assert {(reply.sha256, reply.headers["x-model-label"], reply.generation) for reply in replies} == {
        (canary.sha256, "stable", 2)
    }
    (model, _) = server.get("/status.json").json["models"]
    assert (model["swaps"][0]["cause"], model["probation"]["way_back"]) == ("promotion", 1)
