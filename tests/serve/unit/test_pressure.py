"""Who is turned away, and slow clients."""

from __future__ import annotations

import math
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from serve.gateway.request_lifecycle import TIMEOUT_HEADER, Arrival, admit, read_timeout
from serve.http.thread_pool import RequestPool, SlowClients, current_ticket


@pytest.mark.parametrize(
    ("waiting", "max_queue", "late_s", "status"),
    [(0, 4, -1, None), (4, 4, -1, None), (5, 4, -1, 503), (500, 0, -1, None), (0, 4, 0.1, 504), (9, 4, 0.1, 504)],
)
def test_who_is_turned_away(waiting, max_queue, late_s, status):
    rejection = admit(Arrival(10.0, 0.0, waiting), 20.0, max_queue, 20.0 + late_s)
    assert (rejection and rejection.status) == status


def test_the_clients_deadline_wins_over_the_default():
    assert read_timeout({}, 0.0) == math.inf
    assert read_timeout({}, 7.0) == 7.0
    assert read_timeout({TIMEOUT_HEADER: "0.25"}, 7.0) == 0.25


@pytest.mark.parametrize("stated", ["", "soon", "0", "-1", "nan", "inf", "1,5"])
def test_a_deadline_that_is_none(stated):
    assert read_timeout({TIMEOUT_HEADER: stated}, 7.0) is None


def test_the_pool_knows_who_waits_and_since_when():
    gate, tickets = threading.Event(), []

    def work(connection):
        tickets.append(current_ticket())
        gate.wait(20)
        return connection

    pool = RequestPool(1, SlowClients)
    began_s = time.monotonic()
    done = [pool.submit(work, index) for index in range(3)]
    while pool.waiting != 2:
        assert time.monotonic() - began_s < 20
        time.sleep(0.01)
    time.sleep(0.2)
    gate.set()
    assert [one.result(20) for one in done] == [0, 1, 2]
    assert pool.waiting == 0
    assert [ticket.waited_s >= 0.2 for ticket in tickets] == [False, True, True]
    assert current_ticket() is None
    pool.shutdown()


@pytest.mark.parametrize("phase", ["reading", "working", "writing"])
def test_a_slow_client_is_shut_down_but_never_a_slow_model(phase):
    ours, theirs = socket.socketpair()
    reports, is_shut_down = [], threading.Event()

    def work(connection):
        if phase != "reading":
            current_ticket().work()
        if phase == "writing":
            current_ticket().write()
        ours.settimeout(2.0)
        try:
            assert ours.recv(1) == b""
            is_shut_down.set()
        except socket.timeout:
            pass

    pool = RequestPool(1, lambda: SlowClients(0.2, lambda: reports.append(1)))
    pool.submit(work, SimpleNamespace(sock=ours)).result(30)
    assert is_shut_down.is_set() == (phase != "working")
    assert len(reports) == (phase != "working")
    pool.shutdown()
    theirs.close()
    ours.close()
