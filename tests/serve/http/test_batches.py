"""Requests that are ready at the same moment run together, and none of them notices."""

from __future__ import annotations

import json
import threading
import time

import pytest
from serving import ask_at_once, wait_until
from trainer import ROW

pytestmark = pytest.mark.needs_torch

NUMBERS = range(24)


@pytest.fixture
def recording(tmp_path, trainer, start_server, worker):
    if worker != "asgi":
        pytest.skip("gthread does not batch")
    published = trainer.publish(1)

    def start(**settings):
        arguments = json.dumps({"directory": str(tmp_path)})
        # No request runs twice, so that runs can be counted.
        settings["batch_check_share"] = 0
        server = start_server(model="affine:Recording", model_args=arguments, workers=1, **settings)
        server.wait_live(1, workers=1)
        (tmp_path / "runs").write_text("")
        return server, published.sha256

    return start


def runs(tmp_path):
    return [int(line) for line in (tmp_path / "runs").read_text().split()]


def test_they_share_runs_up_to_the_limit_and_each_gets_its_own_answer(tmp_path, trainer, recording):
    server, sha256 = recording(max_batch_size=8)
    rows = [[number + 20, 1, 2, 3] for number in NUMBERS]
    for reply, row in zip(ask_at_once(server, rows), rows):
        assert reply.json["outputs"] == [trainer.expected(sha256, row)]
    assert sum(runs(tmp_path)) == len(rows)
    assert 1 < max(runs(tmp_path)) <= 8


def test_a_request_that_fails_takes_no_other_with_it(trainer, recording):
    server, sha256 = recording()
    rows = [[number, 1, 2, 3] for number in NUMBERS]
    for reply, row in zip(ask_at_once(server, rows), rows):
        if row[0] == 13:
            assert (reply.status, b"13" in reply.body) == (500, False)
        else:
            assert reply.json["outputs"] == [trainer.expected(sha256, row)]
    assert [event["reason"] for event in server.events("request_failed")] == ["RuntimeError('13 is no good')"]


def test_batching_can_be_turned_off(tmp_path, recording):
    server, _ = recording(max_batch_size=1)
    assert {reply.status for reply in ask_at_once(server, [ROW] * 6)} == {200}
    assert set(runs(tmp_path)) == {1}


def test_a_delay_gathers_what_comes_a_little_later(tmp_path, recording):
    server, _ = recording(max_batch_delay_ms=5000, max_batch_size=6)
    assert {reply.status for reply in ask_at_once(server, [ROW] * 6)} == {200}
    assert runs(tmp_path) == [6]


def test_nobody_waits_for_a_model_that_runs(start_server, trainer):
    trainer.publish(1)
    server = start_server(model="affine:Slow", workers=1)
    server.wait_live(1, workers=1)
    replies = []
    asking = threading.Thread(target=lambda: replies.append(server.client().predict([[5, 0, 0, 0]])))
    asking.start()
    time.sleep(0.5)
    began_s = time.monotonic()
    assert {server.get(path).status for path in ("/livez", "/readyz", "/model")} == {200}
    answered_s = time.monotonic()
    asking.join()
    assert answered_s < replies[0].received_s, "a health check waited for the model"
    assert replies[0].status == 200
    assert answered_s >= began_s


def test_a_swap_keeps_each_batch_on_one_generation(trainer, recording):
    server, _ = recording()
    by_generation = set()
    for seed in range(2, 5):
        trainer.publish(seed)
        rows = [[number + 20, 1, 2, 3] for number in NUMBERS]

        def swapped(generation=seed, rows=rows):
            for reply, row in zip(ask_at_once(server, rows), rows):
                assert reply.json["outputs"] == [trainer.expected(reply.sha256, row)]
                by_generation.add(reply.generation)
            return generation in by_generation

        wait_until(swapped, f"generation {seed}", lambda: server.text)
    assert by_generation == {1, 2, 3, 4}


def test_a_batch_that_changes_answers_is_found_in_service_and_is_the_last_one(trainer, start_server, worker):
    if worker != "asgi":
        pytest.skip("gthread does not batch")
    published = trainer.publish(1)
    server = start_server(model="affine:Sly", workers=2, max_batch_delay_ms=30)
    server.wait_live(1)
    assert b'envserve_batch_mismatches_total{label="stable",model="affine"} 0.0' in server.get("/metrics").body
    assert server.get("/model").json["can_batch"]
    rows = [[number * 1e4, 0, 0, 0] for number in range(2, 10)]

    def ask_until_found():
        ask_at_once(server, rows)
        return server.events("batch_mismatch")

    (event, *_) = wait_until(ask_until_found, "a difference", lambda: server.text)
    assert (event["generation"], event["sha256"]) == (1, published.sha256)
    assert event["requests"] > 1
    for _ in range(4):
        for reply, row in zip(ask_at_once(server, rows), rows):
            assert reply.json["outputs"] == [trainer.expected(published.sha256, row)]
    assert not server.get("/model").json["can_batch"]
    count = len(server.events("batch_mismatch"))
    found = f'envserve_batch_mismatches_total{{label="stable",model="affine"}} {count}.0'.encode()
    assert found in server.get("/metrics").body
