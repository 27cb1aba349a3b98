"""Too many requests, requests that nobody waits for any more, and clients that are slow on purpose."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest
from serving import wait_until
from trainer import ROW

pytestmark = [pytest.mark.needs_torch, pytest.mark.both_workers]


def ask(server, replies, seconds, **headers):
    client = server.client()
    body = json.dumps({"inputs": [[seconds, *ROW[1:]]]}).encode()
    replies.append(client.request("POST", "/predict", body, headers))
    client.close()


def test_what_cannot_be_answered_in_time_is_turned_away_at_once(start_server, trainer, worker):
    trainer.publish(1)
    server = start_server(model="affine:Slow", workers=1, threads=2, max_queue=4)
    server.wait_live(1, workers=1)
    replies = []
    askers = [threading.Thread(target=ask, args=(server, replies, 1.0)) for _ in range(16)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    by_status = {status: [one for one in replies if one.status == status] for status in {one.status for one in replies}}
    assert set(by_status) == {200, 503}
    assert len(by_status[200]) >= 4  # those that ran, and those that could wait
    assert all(int(one.headers["retry-after"]) >= 1 for one in by_status[503])
    if worker == "gthread":  # where a connection is a thread's; its client had better try another worker
        assert all(one.headers["connection"] == "close" for one in by_status[503])
    assert "queue is full" in by_status[503][0].json["error"]
    check_deadlines(server)


def check_deadlines(server):
    replies, late = [], []
    busy = [threading.Thread(target=ask, args=(server, replies, 2.0)) for _ in range(2)]
    for thread in busy:
        thread.start()
    time.sleep(0.5)
    body = json.dumps({"inputs": [[0.0, *ROW[1:]]]}).encode()
    late = server.client().request("POST", "/predict", body, {"X-Request-Timeout": "0.2"})
    assert (late.status, "deadline" in late.json["error"]) == (504, True)
    for thread in busy:
        thread.join()
    assert [one.status for one in replies] == [200, 200]
    assert server.client().request("POST", "/predict", body, {"X-Request-Timeout": "30"}).status == 200
    assert server.client().request("POST", "/predict", body, {"X-Request-Timeout": "soon"}).status == 400


def test_slow_clients_do_not_keep_the_threads(start_server, trainer):
    trainer.publish(1)
    server = start_server(workers=1, threads=2, client_timeout_s=2)
    server.wait_live(1, workers=1)
    started = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
    for connection in slow:
        connection.sendall(started)
    try:
        reply = server.client().predict([ROW])  # after the four have had their two seconds, two by two
        assert reply.status == 200
        text = wait_until(lambda: find_slow(server), "slow clients in the metrics")
        assert b'reason="slow_client"' in text
    finally:
        for connection in slow:
            connection.close()


def find_slow(server):
    text = server.get("/metrics").body
    return text if b"slow_client" in text else None
