"""How a worker ends: what was begun is answered, and no connection is reset under a request."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from serving import Load, assert_answers, wait_until
from trainer import ROW
from wire import Wire, post, statuses

pytestmark = [pytest.mark.needs_torch, pytest.mark.both_workers]


def test_a_request_in_flight_is_answered_before_the_server_ends(start_server, trainer):
    trainer.publish(1)
    server = start_server(model="affine:Slow", workers=1)
    server.wait_live(1, workers=1)
    replies = []
    asking = threading.Thread(target=lambda: replies.append(server.client().predict([[3, 0, 0, 0]])))
    asking.start()
    time.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    asking.join()
    assert replies[0].status == 200
    assert server.process.wait(30) == 0


def test_workers_that_retire_after_some_requests_fail_none(start_server, trainer, worker, monkeypatch):
    if worker == "gthread":
        pytest.skip("gthread resets connections when it retires (gunicorn#3038)")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--max-requests 200 --max-requests-jitter 50")
    trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    first = set(server.workers())
    with Load(server, ROW, threads=4) as load:
        wait_until(lambda: not first & set(server.workers()) or load.failures, "other workers", lambda: server.text)
        load.wait_for_more(100)
    assert_answers(load, trainer)


def test_an_idle_connection_may_still_ask_while_the_worker_ends(start_server, trainer, worker):
    if worker == "gthread":
        pytest.skip("gthread closes idle connections at once")
    trainer.publish(1)
    server = start_server(workers=1)
    server.wait_live(1, workers=1)
    with Wire(server.port) as wire:
        assert wire.ask(post()).status == 200
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_text("(Shutting down)")
        wire.send(post())
        answer = wire.drain()
        assert statuses(answer) == [200]
        assert b"connection: close" in answer.lower()


def test_a_worker_whose_master_was_killed_ends(start_server, trainer):
    trainer.publish(1)
    server = start_server(workers=1)
    server.wait_live(1, workers=1)
    (worker,) = server.workers()
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not is_alive(worker), "the worker's end")


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
