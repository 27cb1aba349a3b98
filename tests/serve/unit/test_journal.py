"""The last events of a store."""

from __future__ import annotations

from serve.events import event_log
from serve.events.event_log import Event, Journal


def happened(event, **facts):
    return Event(event, facts)


def test_events_come_back_the_newest_first(tmp_path):
    kept = Journal(tmp_path / "store")
    for number in range(5):
        kept.put(happened("swapped", generation=number))
        kept.put(happened("prepared", generation=number))
    assert [event["generation"] for event in kept.read(3)] == [4, 3, 2]
    assert {event["event"] for event in kept.read(100)} == {"swapped"}


def test_a_torn_line_is_passed_over(tmp_path):
    kept = Journal(tmp_path)
    kept.put(happened("refused", code="a"))
    with (tmp_path / "events.jsonl").open("ab") as writer:
        writer.write(b'{"event": "swap')
    assert [event["code"] for event in kept.read(10)] == ["a"]


def test_it_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(event_log, "_LARGEST_BYTES", 5000)
    kept = Journal(tmp_path)
    for number in range(500):
        kept.put(happened("swapped", generation=number))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 11_000
    numbers = [event["generation"] for event in kept.read(40)]
    assert numbers == list(range(499, 459, -1))


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    kept = Journal(tmp_path / "file")
    kept.put(happened("swapped"))
    assert kept.read(10) == []
