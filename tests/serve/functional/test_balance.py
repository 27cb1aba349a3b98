"""Real workers give connections to each other: no request waits behind another while a worker is idle."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import wait_until

pytestmark = pytest.mark.needs_torch
QUICK, SLOW = [0.0] * 4, [0.05, 0.0, 0.0, 0.0]


@pytest.fixture
def start(start_server, trainer, worker):
    if worker != "asgi":
        pytest.skip("only event-loop workers give connections away")

    def start(workers, **settings):
        trainer.publish(1)
        server = start_server(model="affine:Whose", workers=workers, balance="on", **settings)
        server.wait_live(1, workers)
        return server

    return start


def whose(client, row=QUICK):
    return int(client.predict([row]).json["outputs"][0][0])


@pytest.mark.parametrize("workers", [2, 3])
def test_new_connections_are_shared_out(start, workers):
    server = start(workers)
    clients = [server.client() for _ in range(4 * workers)]
    owners = [whose(client) for client in clients]
    counts = [owners.count(pid) for pid in server.workers()]
    assert sum(counts) == 4 * workers
    assert max(counts) - min(counts) <= 2, counts


def together(clients, row):
    with ThreadPoolExecutor(len(clients)) as threads:
        return list(threads.map(lambda client: whose(client, row), clients))


def test_two_connections_of_one_worker_are_parted_while_the_other_has_none(start):
    server = start(2)
    clients = [server.client() for _ in range(8)]
    owners = [whose(client) for client in clients]
    one = max(set(owners), key=owners.count)
    pair = [client for client, owner in zip(clients, owners) if owner == one][:2]
    for client in clients:
        if client not in pair:
            client.close()
    wait_until(lambda: len(set(together(pair, SLOW))) == 2, "two workers that answer", lambda: server.text)
    # And they stay so: nobody waits for the other.
    assert sum(len(set(together(pair, SLOW))) == 2 for _ in range(10)) >= 9


def test_a_killed_worker_takes_no_connection_with_it_that_it_did_not_serve(start):
    server = start(2)
    clients = [server.client() for _ in range(6)]
    owners = [whose(client) for client in clients]
    victim = owners[0]
    os.kill(victim, signal.SIGKILL)
    for client, owner in zip(clients, owners):
        if owner != victim:
            assert whose(client) in server.workers()
    wait_until(lambda: len(server.workers()) == 2, "a new worker")
    assert all(whose(server.client()) != victim for _ in range(6))


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_lost_at_the_end_of_workers_that_give_and_take(start, end):
    server = start(2)
    failures, answers, stop = [], [], threading.Event()

    def ask():
        client = server.client()
        while not stop.is_set():
            try:
                reply = client.predict([SLOW])
                answers.append(reply.status)
                if reply.headers.get("connection") == "close":
                    client.close()
                    if end == signal.SIGTERM:
                        return
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                return
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answers) > 30, "answers")
    old = server.workers()
    server.process.send_signal(end)
    if end == signal.SIGHUP:
        wait_until(lambda: not set(old) & set(server.workers()), "new workers", lambda: server.text)
        count = len(answers)
        wait_until(lambda: len(answers) > count + 20 or failures, "answers of the new workers")
    else:
        server.process.wait(60)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(answers) == {200}


def test_over_a_unix_socket_and_with_pipelining(start, tmp_path):
    path = tmp_path / "s"
    server = start(2, prefix=["env", f"GUNICORN_CMD_ARGS=-b 127.0.0.1:0 -b unix:{path}"])
    body = json.dumps({"inputs": [SLOW]}).encode()
    request = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    connections = [socket.socket(socket.AF_UNIX) for _ in range(6)]
    for connection in connections:
        connection.settimeout(60)
        connection.connect(str(path))
    owners = set()
    for _ in range(4):
        for each in connections:
            each.sendall(request * 2)
        for each in connections:
            with each.makefile("rb") as stream:
                for _ in range(2):
                    head = b"".join(iter(stream.readline, b"\r\n"))
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
                    owners.add(json.loads(stream.read(length))["outputs"][0][0])
    assert len(owners) == 2
    assert server.events("request_failed") == []


def test_threads_say_that_they_keep_their_connections(start_server, trainer):
    trainer.publish(1)
    server = start_server(balance="on", worker="gthread")
    server.wait_live(1)
    assert "balance: off" in server.text
