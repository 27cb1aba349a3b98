"""Which worker a connection goes to, and that it gets there with all that was read of it."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.workers.balance import IN_HAND, OPEN, Balance, Neighbours, where

LOADS = st.dictionaries(st.integers(0, 9), st.integers(0, 50), min_size=1, max_size=10)


@settings(deadline=None)
@given(LOADS, st.data())
def test_only_to_the_one_with_least_and_only_where_it_helps(loads, data):
    here = data.draw(st.sampled_from(sorted(loads)))
    found = where(loads, here)
    least = min((load for place, load in loads.items() if place != here), default=None)
    if found is None:
        assert least is None or loads[here] - least < 2
    else:
        assert found != here
        assert loads[found] == least <= loads[here] - 2


@settings(deadline=None)
@given(LOADS)
def test_it_comes_to_rest_with_everybody_even(loads):
    moves = 0
    while moved := next(((here, to) for here in loads if (to := where(loads, here)) is not None), None):
        here, to = moved
        loads[here] -= 1
        loads[to] += 1
        assert where(loads, to) != here, "given back at once"
        moves += 1
        assert moves <= 50 * 10
    assert max(loads.values()) - min(loads.values()) <= 1


class Transport:
    """As much of a transport as giving asks for."""

    def __init__(self, sock):
        self.sock = sock

    def get_extra_info(self, name):
        return {"socket": self.sock}[name]

    def abort(self):
        self.sock.close()


@pytest.fixture
def three():
    neighbours = Neighbours(4)
    balances = [Balance(neighbours, place, lambda: True) for place in range(3)]
    for balance in balances:
        balance.join()
    return neighbours, balances


def pair(kind):
    if kind == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("size", [0, 100, 32 * 1024, 250_000])
def test_a_connection_arrives_with_what_was_read_of_it(three, kind, size):
    _, balances = three
    client, server = pair(kind)
    data, got = os.urandom(size), []
    assert balances[0].give(1, Transport(server), data)
    balances[1].receive(lambda sock, begun: got.append((sock, begun)))
    ((sock, begun),) = got
    assert begun == data
    sock.sendall(b"answer")
    assert client.recv(10) == b"answer"
    for each in (sock, client):
        each.close()


def test_what_was_on_its_way_to_a_worker_that_died_goes_to_another(three):
    neighbours, balances = three
    client, server = pair("tcp")
    assert balances[0].give(1, Transport(server), b"GET")
    neighbours.clear(1)
    got = []
    for each in (balances[0], balances[2]):
        each.receive(lambda sock, begun: got.append((sock, begun)))
    ((sock, begun),) = got
    assert begun == b"GET"
    sock.close()
    assert client.recv(1) == b""
    client.close()


def test_with_a_full_mailbox_the_connection_stays(three):
    _, balances = three
    pairs = [pair("unix") for _ in range(400)]
    given_away = [balances[0].give(1, Transport(server), b"x" * 30_000) for _, server in pairs]
    assert not all(given_away)
    assert all(server.fileno() >= 0 for (_, server), gone in zip(pairs, given_away) if not gone)
    balances[1].receive(lambda sock, begun: sock.close())
    for one, other in pairs:
        one.close()
        other.close()


def test_who_ends_is_given_nothing_and_gives_nothing(three):
    _, balances = three
    for _ in range(5):
        balances[0].count(OPEN, 1)
    balances[1].leave()
    assert [balances[0].place_for_new() for _ in range(2)] == [2, 2]
    balances[2].leave()
    assert balances[0].place_for_new() is None


def test_two_requests_of_one_turn_do_not_stay_together(three):
    _, balances = three
    balances[0].count(IN_HAND, 1)
    assert balances[0].place_for_next() is None
    balances[0].count(IN_HAND, 1)
    assert balances[0].place_for_next() == 1


def test_half_of_the_difference_goes_and_then_it_rests(three):
    _, balances = three
    for each, asked in zip(balances, (9, 3, 3)):
        each.asking = asked
    for balance in reversed(balances):
        balance.look()
    moved = [balances[0].place_for_next() for _ in range(9)]
    assert sorted(place for place in moved if place is not None) == [1, 1, 2]
