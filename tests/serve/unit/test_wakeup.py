from __future__ import annotations

import time

import pytest
from trainer import mark

from serve.source.file_events import FileEvents

SOON_S = 3.0


@pytest.fixture
def reports():
    return []


@pytest.fixture
def wake_up(reports):
    wake_up = FileEvents("auto", reports.append)
    yield wake_up
    wake_up.close()


def wait(wake_up, timeout_s=SOON_S):
    started = time.monotonic()
    wake_up.wait(timeout_s)
    return time.monotonic() - started


def settle(wake_up, directory):
    wake_up.supervise(directory)
    wait(wake_up, 0.3)


def test_a_marker_wakes_and_its_checkpoint_does_not(wake_up, tmp_path, reports):
    settle(wake_up, tmp_path)
    assert reports == ["file events"]
    (tmp_path / "m.pth").write_bytes(b"weights")
    assert wait(wake_up, 0.5) >= 0.5
    mark(tmp_path / "m.pth")
    assert wait(wake_up) < SOON_S / 2
    wait(wake_up, 0.3)
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "x").rename(tmp_path / "n.done")
    assert wait(wake_up) < SOON_S / 2


def test_reading_a_marker_does_not_wake(wake_up, tmp_path):
    marker = mark(tmp_path / "m.pth")
    settle(wake_up, tmp_path)
    wait(wake_up, 0.3)
    told = []
    wake_up.on_any_event, notice = told.append, wake_up.on_any_event
    marker.read_bytes()
    assert wait(wake_up, 0.5) >= 0.5
    assert told == []
    wake_up.on_any_event = notice
    mark(tmp_path / "m.pth")
    assert wait(wake_up) < SOON_S / 2


def test_a_directory_that_was_replaced_is_watched_again(wake_up, tmp_path):
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    settle(wake_up, directory)
    directory.rename(tmp_path / "old")
    wake_up.supervise(directory)  # it is gone
    directory.mkdir()
    settle(wake_up, directory)
    wait(wake_up, 0.3)
    mark(directory / "m.pth")
    assert wait(wake_up) < SOON_S / 2


def test_a_directory_that_was_replaced_between_two_looks_is_noticed(wake_up, tmp_path):
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    settle(wake_up, directory)
    directory.rename(tmp_path / "old")
    directory.mkdir()
    settle(wake_up, directory)
    wait(wake_up, 0.3)
    mark(directory / "m.pth")
    assert wait(wake_up) < SOON_S / 2


def test_without_events_the_timer_is_left(tmp_path, reports):
    wake_up = FileEvents("poll", reports.append)
    wake_up.supervise(tmp_path)
    mark(tmp_path / "m.pth")
    assert wait(wake_up, 0.3) >= 0.3
    assert reports == []


def test_it_can_be_woken_by_hand(wake_up):
    wake_up.wake()
    assert wait(wake_up) < SOON_S / 2
