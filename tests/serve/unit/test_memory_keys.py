"""Keys in the memory of one process: what outlives it, and who is taken out because none of its replicas lives."""

from __future__ import annotations

import sqlite3

import pytest

from serve.errors import FleetError
from serve.fleet.keys import LeaseLostError, Transaction
from serve.fleet.memory_keys import REPLICAS, MemoryKeys, Register, find_gone
from serve.fleet.messages import ALL, HOSTS, ROSTER, Beat, Member, View, write


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_next_process_has_what_was_answered_and_no_lease(tmp_path):
    first = MemoryKeys(Clock(), Register(tmp_path / "keys.sqlite"))
    lease, _ = first.grant(2.0)
    assert first.commit(Transaction(puts={"a": "1", "b": "2"}, leased={"c": "3"}, lease=lease))
    assert first.commit(Transaction({"a": first.revision}, puts={"a": "4"}, deletes=("b",)))
    next_one = MemoryKeys(Clock(), Register(tmp_path / "keys.sqlite"))
    found = next_one.read("")
    assert {key: (item.value, item.created) for key, item in found.items.items()} == {
        "a": ("4", first.read("").items["a"].created)
    }
    assert found.revision > first.revision + 1000  # whatever it had answered and not written
    assert not next_one.keep_alive(lease)
    with pytest.raises(LeaseLostError):
        next_one.commit(Transaction(leased={"c": "3"}, lease=lease))


def test_a_change_that_cannot_be_written_down_is_none(tmp_path):
    keys = MemoryKeys(Clock(), Register(tmp_path / "keys.sqlite"))
    keys.commit(Transaction(puts={"a": "1"}))
    before = keys.read("")
    with sqlite3.connect(tmp_path / "keys.sqlite", isolation_level=None) as other:
        other.execute("DROP TABLE items")
        with pytest.raises(FleetError, match="the register of the fleet"):
            keys.commit(Transaction(puts={"a": "2", "b": "3"}))
    assert keys.read("") == before


def test_a_lease_ends_with_its_items(tmp_path):
    clock = Clock()
    keys = MemoryKeys(clock)
    lease, _ = keys.grant(2.0)
    keys.commit(Transaction(leased={"c": "3"}, lease=lease))
    clock.now_s = 1.5
    assert keys.keep_alive(lease)
    clock.now_s = 3.4
    assert list(keys.read("").items) == ["c"]
    revision = keys.revision
    clock.now_s = 3.6
    assert list(keys.read("").items) == []
    assert keys.revision > revision  # who watches is woken


def test_a_silent_host_is_gone_where_none_of_its_replicas_lives():
    keys = MemoryKeys(Clock())
    lease, _ = keys.grant(2.0)
    for host in "abcd":
        keys.commit(Transaction(puts={ROSTER + host: write(Member(1))}))
    keys.commit(Transaction(leased={HOSTS + "a": write(Beat(1))}, lease=lease))
    keys.commit(Transaction(puts={f"{REPLICAS}{host}/{host}{n}": "" for host in "abc" for n in (1, 2)}))
    view, replicas = View.parse(keys.read(*ALL)), [key[len(REPLICAS) :] for key in keys.read(REPLICAS).items]
    # a speaks, of b one replica lives and is cut off, of d nothing was ever known
    (gone,) = find_gone(view, replicas, {"b2"})
    assert keys.commit(gone)
    assert sorted(View.parse(keys.read(*ALL)).roster) == ["a", "b", "d"]
    assert sorted(keys.read(REPLICAS).items) == [REPLICAS + name for name in ("a/a1", "a/a2", "b/b1", "b/b2")]
    keys.commit(Transaction(leased={HOSTS + "b": write(Beat(1))}, lease=lease))
    (late,) = find_gone(view, replicas, {"c1", "a1"})
    assert not keys.commit(late)  # it has spoken since
