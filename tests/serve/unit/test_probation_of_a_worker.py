"""What one worker's reloader and committer do during a probation, without threads, torch or requests."""

from __future__ import annotations

import time

import bare
import pytest

from serve.errors import MemoryShortError
from serve.rollout.decision import Rule
from serve.store.ledger import PROMOTION, RETURN

RULE = Rule(3600, tolerated={"errors": 0.001})


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    return place


def write(place, name, content):
    (place / name).write_bytes(content)
    (place / (name + ".done")).touch()
    time.sleep(0.01)  # the markers' times are their rank


@pytest.fixture
def start(tmp_path, place):
    workers = []

    def start(**settings):
        workers.append(bare.Worker(tmp_path / "store", place, probation=RULE, **settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.leave()


@pytest.fixture
def worker(start, place):
    """A worker whose second generation is on probation."""
    worker = start()
    for name, content in (("a", b"first"), ("b", b"second")):
        write(place, name, content)
        worker.look()
    assert (worker.live, worker.generation) == (b"second", 2)
    return worker


def spoil(worker, generation, count=20):
    worker.guard.note_run(generation, count, 1, 0.001)
    for _ in range(count):
        worker.guard.note(generation, "errors")
    assert worker.committer._watch.look() is not None


def test_back_and_not_again(worker, place):
    spoil(worker, 2)
    worker.look()
    assert (worker.live, worker.generation) == (b"first", 3)
    assert [entry.cause for entry in worker.ledger.read()] == ["checkpoint", "checkpoint", RETURN]
    (refused,) = worker.log.of("refused")
    assert refused["code"] == "probation"
    worker.look(6)
    assert worker.generation == 3  # what was taken back is at the place still, and the newest
    write(place, "c", b"third")
    worker.look()
    assert (worker.live, worker.generation) == (b"third", 4)
    assert worker.operations().status().probation.way_back == 3


def test_a_restart_brings_it_not_back_either(worker, start):
    spoil(worker, 2)
    worker.look()
    worker.leave()
    again = start(start="another")
    again.look(6)
    assert (again.live, again.generation) == (b"first", 3)


def test_a_pin_keeps_it(worker):
    worker.operations().pin("it is meant so")
    spoil(worker, 2)
    worker.look()
    assert (worker.live, worker.generation) == (b"second", 2)
    assert worker.log.of("held")[0]["reason"] == "an operator has pinned it"


def test_what_is_published_goes_before_what_is_kept(worker, place):
    """A third model does not fit: the probation ends, and the memory of the first is there for it."""

    class Short(dict):
        """Memory is short until what is kept has gone."""

        def __contains__(self, content):
            return content == b"third" and worker.slot._kept is not None

        def __getitem__(self, content):
            return MemoryShortError("no room")

    worker.loader.faults = Short()
    write(place, "c", b"third")
    worker.look()
    assert (worker.live, worker.generation) == (b"third", 3)
    assert "the memory is needed" in worker.log.of("held")[0]["reason"]
    assert worker.log.of("refused") == []
    assert worker.log.of("retired")[0]["generation"] == 1


def test_a_worker_that_starts_during_it_holds_the_way_back(worker, start):
    other = start()
    assert (other.live, other.generation) == (b"second", 2)
    spoil(worker, 2)
    assert (other.live, other.generation) == (b"first", 3)  # at once, without a look
    other.look()
    assert [line["generation"] for line in other.log.of("swapped")] == [3]


def test_a_promotion_takes_the_bytes_of_another_label(worker, tmp_path, place):
    source = tmp_path / "canary"
    source.mkdir()
    write(place, "z", b"promoted")
    other = bare.Worker(tmp_path / "other", place)
    other.look()
    entry = other.ledger.last()
    (place / "z.done").unlink()
    path = other.store.root / "sha256" / entry.sha256
    worker.operator_requests.order_promotion("canary-1", entry, path)
    worker.operator_requests.order_promotion("canary-1", entry, path)  # by another worker, or after a kill
    worker.look(6)
    assert (worker.live, worker.generation, worker.ledger.last().cause) == (b"promoted", 3, PROMOTION)
    assert worker.operations().status().probation.generation == 3
    other.leave()


def test_a_pin_makes_a_promotion_wait(worker, tmp_path):
    entry = worker.ledger.read()[0]
    path = worker.store.root / "sha256" / entry.sha256
    worker.operations().pin("no")
    worker.operator_requests.order_promotion("canary-1", entry, path)
    worker.look()
    assert worker.generation == 2
    worker.operations().unpin()
    worker.look()
    assert (worker.live, worker.generation) == (b"first", 3)


def test_without_room_for_a_third_model_nothing_is_kept_and_status_has_the_reason(worker, place):
    assert not worker.operations().status().is_short
    worker.loader.shortage = "memory for a checkpoint: expected 2.0 MiB, found 1.0 MiB"
    write(place, "c", b"third")
    worker.look()
    assert worker.live == b"third"
    (held,) = worker.log.of("held")
    assert (held["generation"], held["reason"]) == (3, f"not on probation: {worker.loader.shortage}")
    status = worker.operations().status()
    assert (status.is_short, status.probation) == (True, None)
    assert [event["generation"] for event in worker.log.of("retired")] == [1, 2]
    worker.loader.shortage = ""
    write(place, "d", b"fourth")
    worker.look()
    status = worker.operations().status()
    assert (status.is_short, status.probation.way_back) == (False, 3)
