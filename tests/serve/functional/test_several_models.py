"""Several models in one server, and several labels of one model."""

from __future__ import annotations

import json

import pytest
from serving import wait_until
from trainer import ROW, mark

from serve.publishing.publish import publish

pytestmark = pytest.mark.needs_torch

TOML = """
model = "affine:Affine"
[models.a]
checkpoints = "a"
[models.a.canary]
checkpoints = "a-next"
share = 0.5
[models.b]
checkpoints = "b"
[models.b.shadow]
checkpoints = "b-dark"
"""


@pytest.fixture
def start(tmp_path, start_server):
    (tmp_path / "serve.toml").write_text(TOML)
    for name in ("a", "a-next", "b", "b-dark"):
        (tmp_path / name).mkdir()
    return lambda: start_server(model=None, name=None, checkpoints=None)


@pytest.fixture
def put(tmp_path, trainer):
    """A function that publishes a model into one of the watched places."""

    def publish_there(place: str, seed: int):
        return publish(trainer.train(seed), tmp_path / place, f"model_{seed}.safetensors", f"v{seed}")

    return publish_there


def wait_live(server, name, label, generation, workers=2):
    def find():
        moved = [line for line in server.events() if line["event"] in ("swapped", "restored") and line["model"] == name]
        its = [line for line in moved if line.get("label", "stable") == label and line["generation"] == generation]
        return len({line["worker"] for line in its}) >= workers

    wait_until(find, f"{name}@{label} {generation}", lambda: server.text)


def ask(client, path, headers=None):
    return client.request("POST", path, json.dumps({"inputs": [ROW]}).encode(), headers)


def test_each_model_is_served_and_swapped_by_itself(start, put, trainer):
    first, second = put("a", 1), put("b", 2)
    server = start()
    for name in ("a", "b"):
        wait_live(server, name, "stable", 1)
    client = server.client()
    assert ask(client, "/predict/a").json["outputs"] == [trainer.expected(first.sha256)]
    assert ask(client, "/predict/b").json["outputs"] == [trainer.expected(second.sha256)]
    assert ask(client, "/predict").json == {"error": "model: expected a or b, found none"}
    assert ask(client, "/predict/c").status == 404
    third = put("b", 3)
    wait_live(server, "b", "stable", 2)
    assert ask(client, "/predict/b").sha256 == third.sha256
    assert ask(client, "/predict/a").sha256 == first.sha256
    assert (ask(client, "/predict/b/v3").status, ask(client, "/predict/b/v2").status) == (200, 404)
    assert server.get("/readyz").status == 200


def test_a_canary_answers_a_part_of_the_requests(start, put, trainer):
    put("b", 9)
    stable, canary = put("a", 1), put("a-next", 2)
    server = start()
    wait_live(server, "a", "stable", 1)
    wait_live(server, "a", "canary", 1)
    client = server.client()
    replies = [ask(client, "/predict/a") for _ in range(200)]
    assert {reply.status for reply in replies} == {200}
    for reply in replies:
        assert reply.json["outputs"] == [trainer.expected(reply.sha256)]
        assert (reply.sha256 == canary.sha256) is (reply.headers["x-model-label"] == "canary")
    # A fair coin lands this far from the middle once in 10**9 times.
    assert 55 <= sum(reply.sha256 == canary.sha256 for reply in replies) <= 145
    for label, published in (("stable", stable), ("canary", canary)):
        assert ask(client, "/predict/a", {"X-Model-Label": label}).sha256 == published.sha256
    assert server.get("/model/a").json["labels"]["canary"]["version"] == "v2"


def test_a_shadow_is_asked_and_never_answers(start, put):
    put("a", 9)
    stable, _ = put("b", 1), put("b-dark", 2)
    server = start()
    wait_live(server, "b", "stable", 1)
    wait_live(server, "b", "shadow", 1)
    client = server.client()
    assert {ask(client, "/predict/b").sha256 for _ in range(20)} == {stable.sha256}
    differed = server.wait_for_events("shadow_differed", 1)
    assert (differed[0]["model"], differed[0]["label"]) == ("b", "shadow")
    assert ask(client, "/predict/b", {"X-Model-Label": "shadow"}).status == 404


@pytest.mark.parametrize("commit", ["host", "worker"])
def test_a_model_is_unloaded_and_loaded_by_requests(start_server, trainer, commit):
    published = trainer.publish(1)
    server = start_server(unload="allow", commit=commit)
    server.wait_live(1)
    client = server.client()
    answered = client.request("POST", "/v2/repository/models/affine/unload")
    assert (answered.status, answered.json["state"]) == (200, "UNLOADING")
    server.wait_for_events("unloaded", 2, generation=1)
    server.wait_for_events("retired", 2, generation=1)
    assert (client.predict([ROW]).status, server.get("/readyz").status) == (503, 503)
    trainer.publish(2)
    assert client.request("POST", "/v2/repository/index").json[0]["state"] != "READY"
    assert client.request("POST", "/v2/repository/models/affine/load").status == 200
    server.wait_live(2)
    assert client.predict([ROW]).sha256 == trainer.sha256(2) != published.sha256


def test_a_model_stays_loaded_where_the_settings_do_not_allow_it(start_server, trainer):
    trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    client = server.client()
    refused = client.request("POST", "/v2/repository/models/affine/unload")
    assert (refused.status, "unload" in refused.json["error"]) == (400, True)
    assert client.request("POST", "/v2/repository/models/affine/load").status == 200
    (trainer.directory / "zz.safetensors").write_bytes(b"no checkpoint")
    mark(trainer.directory / "zz.safetensors")
    failed = client.request("POST", "/v2/repository/models/affine/load")
    assert (failed.status, "expected safetensors" in failed.json["error"]) == (400, True)
    assert client.predict([ROW]).status == 200


BY_RULE = """
[models.a]
model = "affine:Affine"
checkpoints = "a"
[models.a.canary]
checkpoints = "a-next"
share = 0.5
promote = {requests = 60, errors = 0}
"""


def test_a_canary_is_promoted_by_its_rule_in_all_workers(tmp_path, start_server, trainer):
    (tmp_path / "serve.toml").write_text(BY_RULE)
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
    moments = {moment["step"]: moment["why"] for moment in model["swaps"][0]["moments"]}
    assert list(moments) == ["published", "canary", "gates", "committed"]
    assert moments["canary"] == f"{promoted['reason']}"


def test_a_shadow_that_differs_is_ended_and_one_that_agrees_is_promoted(tmp_path, start_server, trainer):
    rule = 'then = "promote"\npromote = {requests = 30, agreement = 0.9}'
    shadowed = BY_RULE.replace("canary]", "shadow]").replace("share = 0.5\npromote = {requests = 60, errors = 0}", rule)
    (tmp_path / "serve.toml").write_text(shadowed)
    for name in ("a", "a-next"):
        (tmp_path / name).mkdir()
    publish(trainer.train(1), tmp_path / "a", "m.safetensors", "v1")
    server = start_server(model=None, name=None, checkpoints=None)
    wait_live(server, "a", "stable", 1)
    client = server.client()
    for seed, version, outcome in ((2, "v2", "ended"), (1, "v3", "promoted")):
        tried = publish(trainer.train(seed), tmp_path / "a-next", f"{version}.safetensors", version)

        def is_over(outcome=outcome):
            ask(client, "/predict")
            return server.events(outcome)

        (event,) = wait_until(is_over, outcome, lambda: server.text)
        assert (event["label"], event["version"], event["sha256"]) == ("shadow", version, tried.sha256)
    wait_live(server, "a", "stable", 2)
    assert (event["version"], ask(client, "/predict").headers["x-model-version"]) == ("v3", "v3")
    assert [(one["code"], one["version"]) for one in server.events("refused")] == [("shadow", "v2")]
