"""Checkpoints that pass every gate and answer badly take themselves back, on real gunicorn under real requests."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from affine import Turning
from serving import Requests, find_steps_back, wait_until
from trainer import ROW

pytestmark = pytest.mark.needs_torch

GOOD = [[3.0, -2.0, 5.0, 7.0], [3.0, 1.0, 0.0, 2.0]]


@pytest.fixture
def start(start_server, trainer):
    """Start a server of `affine:Turning` whose first generation is live and has answered."""

    def start(second_bias=0.0, **settings):
        good = trainer.publish_kind(0, second_bias=second_bias)
        server = start_server(model="affine:Turning", **settings)
        server.wait_live(1, settings.get("workers", 2))
        return server, good

    return start


KINDS = {
    "finite": Turning.NAN,
    "errors": Turning.RAISING,
    "slower": Turning.SLOW,
    "unhealthy": Turning.ONE_CLASS,
    "range": Turning.OUTSIDE,
}


@pytest.mark.both_workers
@pytest.mark.parametrize("found", KINDS)
def test_a_bad_generation_takes_itself_back(start, trainer, found):
    server, good = start(5.0 if found == "slower" else 0.0)
    with Requests(server, ROW, threads=4) as load:
        load.wait_for_more(300)
        bad = trainer.publish_kind(KINDS[found], second_bias=5.0 if found == "slower" else 0.0)
        (returned,) = server.wait_for_events("returned", 1)
        returned_s = time.monotonic()
        load.wait_for_more(100)
    assert (returned["signal"], returned["generation"], returned["sha256"]) == (found, 3, good.sha256)
    assert returned["previous"]["sha256"] == bad.sha256
    (refused,) = server.wait_for_events("refused", 1)
    assert (refused["code"], refused["sha256"]) == ("probation", bad.sha256)
    replies = load.all()
    after = [reply for reply in replies if reply.sent_s > returned_s]
    assert {(reply.status, reply.generation, reply.sha256) for reply in after} == {(200, 3, good.sha256)}
    spoiled = [reply for reply in replies if reply.status != 200]
    if found == "errors":
        assert 0 < len(spoiled) < 200
    else:
        assert spoiled == []
    if found == "finite":
        assert {reply.headers["x-model-retried"] for reply in replies if "x-model-retried" in reply.headers} == {
            "generation=2; finite"
        }
    assert load.failures == []


@pytest.mark.parametrize("found", ["finite", "errors"])
def test_one_that_turns_bad_late_or_seldom(start, trainer, found):
    """After 500 good answers it gives NaN; or it fails on one request of fifty."""
    server, good = start(workers=1, probation_s=3600)
    with Requests(server, ROW, threads=4) as load:
        load.wait_for_more(50)
        trainer.publish_kind(Turning.LATE if found == "finite" else Turning.SELDOM)
        (returned,) = server.wait_for_events("returned", 1)
        load.wait_for_more(50)
    assert (returned["signal"], returned["sha256"]) == (found, good.sha256)
    bad, of = returned["bad"][found]
    assert of > 250
    assert bad < 100
    statuses = [reply.status for reply in load.all()]
    # What was begun before the return, in four threads, is not in its counts.
    assert statuses.count(500) == 0 if found == "finite" else bad <= statuses.count(500) <= bad + 8


def test_a_worker_killed_during_a_probation(start, trainer, tmp_path):
    """Its successor holds the way back too; a second one that dies of the model ends it; a restart begins it again."""
    server, good = start(probation_s=3600)
    trainer.publish_kind(0, seed=8)
    server.wait_live(2)

    def kill_one():
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(server.workers()) - {victim}) == 2, "a new worker")

    kill_one()
    server.wait_live(2, workers=3)
    wait_until(lambda: json.loads(server.get("/status.json").body)["models"][0]["probation"], "a probation")
    with Requests(server, ROW, threads=2) as load:
        kill_one()
        (returned,) = server.wait_for_events("returned", 1)
        wait_until(lambda: load.all()[-1].status == 200 and load.all()[-1].generation == 3, "generation 3")
    assert (returned["signal"], returned["sha256"]) == ("crash", good.sha256)
    assert {reply.status for reply in load.all()} == {200}


def test_a_server_killed_during_a_probation_begins_it_again(start, start_server, trainer):
    server, good = start(probation_s=3600)
    trainer.publish_kind(Turning.NAN, seed=8)
    server.wait_live(2)
    for pid in [server.process.pid, *server.workers()]:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    again = start_server(model="affine:Turning", probation_s=3600)
    again.wait_live(2)
    with Requests(again, ROW, threads=2) as load:
        (returned,) = again.wait_for_events("returned", 1)
        load.wait_for_more(10)
    assert (returned["generation"], returned["sha256"], returned["signal"]) == (3, good.sha256, "finite")
    assert [reply.status for reply in load.all()] == [200] * load.count
    assert load.all()[-1].generation == 3


def test_a_probation_ends_and_is_in_the_history(start, trainer):
    server, _ = start(probation_s=1)
    trainer.publish_kind(0, seed=8)
    server.wait_live(2)
    server.wait_for_events("held", 1)
    server.wait_for_events("retired", 2)
    (model,) = server.get("/status.json").json["models"]
    assert model["probation"] is None
    assert model["swaps"][0]["outcome"].startswith("held: 1 s")
    assert b'envserve_probation_generation{label="stable",model="affine"} 0.0' in server.get("/metrics").body


@pytest.mark.parametrize("swaps", [30, pytest.param(1000, marks=pytest.mark.nightly)])
def test_good_swaps_under_load_and_noise_are_never_taken_back(start, trainer, swaps):
    """A busy machine, and answers that raise now and then whatever generation gives them."""
    server, _ = start(probation_s=0.5)
    stopping = threading.Event()

    def keep_busy():
        while not stopping.is_set():
            sum(range(20000))

    threads = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with Requests(server, ROW, threads=4) as load:
            for number in range(1, swaps + 1):
                trainer.publish_kind(0, seed=number + 10)
                load.wait_for_generation(number + 1)
                load.wait_for_more(20)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert server.events("returned") == server.events("refused") == []
    assert {reply.status for reply in load.all()} == {200}
    assert find_steps_back(load.all()) == []
