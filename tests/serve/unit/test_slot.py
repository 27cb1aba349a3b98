from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from serve.checkpoint.provenance import Provenance
from serve.errors import NotLiveError
from serve.model.slot import Generation, Slot


def make(number):
    return Generation(object(), Provenance("m", f"v{number}", number, "a" * 64, None), {})


def test_nothing_is_live_at_first():
    with pytest.raises(NotLiveError), Slot().lease():
        pass


def test_a_lease_that_ends_twice_is_a_fault():
    slot = Slot()
    slot.swap(make(1))
    slot.release(held := slot.acquire())
    with pytest.raises(KeyError):
        slot.release(held)


def test_a_lease_outlives_a_swap():
    slot, old, new = Slot(), make(1), make(2)
    assert slot.swap(old) is None
    with slot.lease() as held:
        assert slot.swap(new) is old
        assert held is old
        assert slot.take_drained() == []
        with slot.lease() as later:
            assert later is new
    assert slot.take_drained() == [old]
    assert slot.take_drained() == []


def test_a_request_that_fails_gives_its_lease_back():
    slot, old = Slot(), make(1)
    slot.swap(old)
    with pytest.raises(ZeroDivisionError), slot.lease():
        raise ZeroDivisionError
    slot.swap(make(2))
    assert slot.take_drained() == [old]


def test_no_generation_is_retired_under_a_request():
    slot = Slot()
    slot.swap(make(0))
    retired, seen_retired, stopping = set(), [], threading.Event()

    def request():
        while not stopping.is_set():
            with slot.lease() as generation:
                if generation.provenance.generation in retired:
                    seen_retired.append(generation)

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 2000):
        slot.swap(make(number))
        retired.update(old.provenance.generation for old in slot.take_drained())
    stopping.set()
    for thread in threads:
        thread.join()
    retired.update(old.provenance.generation for old in slot.take_drained())
    assert seen_retired == []
    assert retired == set(range(1999))


def test_the_commit_word_moves_to_what_stands_by():
    old, new, word = make(1), make(2), [1]
    slot = Slot(SimpleNamespace(word=word, kept=0, returned=0))
    slot.swap(old)
    slot.stand_by(new)
    with slot.lease() as held:
        assert held is old
        word[0] = 2
        with slot.lease() as later:
            assert later is new
        assert slot.take_drained() == []
    assert slot.live is new
    assert slot.take_drained() == [old]


def test_rather_no_answer_than_an_old_one():
    word = [1]
    slot = Slot(SimpleNamespace(word=word, kept=0, returned=0))
    slot.swap(make(1))
    word[0] = 2
    assert slot.live is None
    with pytest.raises(NotLiveError), slot.lease():
        pass


def test_what_stood_by_for_a_closed_proposal_never_becomes_live():
    word = [1]
    slot = Slot(SimpleNamespace(word=word, kept=0, returned=0))
    slot.swap(make(1))
    slot.stand_by(make(2))
    slot.stand_by(None)
    word[0] = 2
    assert slot.live is None
