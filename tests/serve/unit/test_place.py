from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from trainer import mark

from serve.source import local as place_module
from serve.source.local import LocalSource


def make(directory, name, mtime_s, content=b"weights"):
    path = directory / name
    path.write_bytes(content)
    os.utime(mark(path), (mtime_s, mtime_s))
    return path


def names(place):
    return [seen.path.name for seen in place.observe()]


def test_the_newest_marker_comes_first(tmp_path):
    for name, mtime_s in (("b", 5), ("c", 9), ("a", 5)):
        make(tmp_path, name, mtime_s)
    (tmp_path / "unmarked").write_bytes(b"")
    (tmp_path / ".tmp.done").write_bytes(b"")
    assert names(LocalSource(tmp_path)) == ["c", "b", "a"]


def test_a_single_checkpoint_is_watched_by_its_own_marker(tmp_path):
    path = make(tmp_path, "latest.pth", 5)
    make(tmp_path, "other.pth", 9)
    place = LocalSource(path)
    assert names(place) == ["latest.pth"]
    assert not place.is_directory
    assert place.directory == tmp_path


def test_nothing_there_yet(tmp_path):
    assert names(LocalSource(tmp_path / "nowhere" / "latest.pth")) == []
    assert names(LocalSource(tmp_path)) == []


def test_a_marker_without_its_checkpoint_is_seen(tmp_path):
    make(tmp_path, "m", 5).unlink()
    assert [seen.checkpoint for seen in LocalSource(tmp_path).observe()] == [None]


@pytest.mark.parametrize("which", ["m", "m.done"])
def test_directories_in_the_place_of_files_are_a_problem(tmp_path, which):
    (tmp_path / "m").write_bytes(b"")
    (tmp_path / "m.done").write_bytes(b"")
    (tmp_path / which).unlink()
    (tmp_path / which).mkdir()
    (seen,) = LocalSource(tmp_path).observe()
    assert "expected a regular file" in seen.problem


def test_a_loop_of_symbolic_links_is_a_problem_of_that_checkpoint(tmp_path):
    make(tmp_path, "good", 5)
    (tmp_path / "loop").symlink_to("loop")
    os.utime(mark(tmp_path / "loop2"), (9, 9))
    (tmp_path / "loop2").symlink_to("loop")
    seen = list(LocalSource(tmp_path).observe())
    assert [one.path.name for one in seen] == ["loop2", "good"]
    assert "cannot be read" in seen[0].problem


def test_a_marker_that_is_a_loop_does_not_hide_the_others(tmp_path):
    make(tmp_path, "good", 5)
    (tmp_path / "m.done").symlink_to("m.done")
    assert "good" in names(LocalSource(tmp_path))


def test_a_huge_marker_is_a_problem(tmp_path):
    path = make(tmp_path, "m", 5)
    mark(path, b" " * (2 * 1024 * 1024))
    (seen,) = LocalSource(tmp_path).observe()
    assert "at most" in seen.problem


def test_a_stated_generation_outranks_the_clock(tmp_path):
    for name, mtime_s, content in (
        ("old", 9, b""),
        ("seven", 5, b'{"generation": 7}'),
        ("eight", 2, b'{"generation": 8}'),
        ("nonsense", 3, b'{"generation": "9"}'),
    ):
        path = make(tmp_path, name, mtime_s)
        os.utime(mark(path, content), (mtime_s, mtime_s))
    place = LocalSource(tmp_path)
    assert names(place) == ["eight", "seven", "old", "nonsense"]
    os.utime(mark(tmp_path / "old", b'{"generation": 10}'), (1, 1))
    assert names(place)[0] == "old"


def test_thousands_of_markers_are_not_gone_through_at_each_look(tmp_path, monkeypatch):
    for number in range(3000):
        (tmp_path / f"{number}.done").write_bytes(b"")
    long_ago = time.time() - 60
    os.utime(tmp_path, (long_ago, long_ago))
    looks = []
    monkeypatch.setattr(place_module, "_look_at_marker", lambda path: looks.append(path) or Path(path).stat())
    place = LocalSource(tmp_path)
    # Listing takes some milliseconds, and is done again after a hundred times as long.
    monkeypatch.setattr(place_module, "_MOST_SHARE", 1e-6)
    first = place.list()
    assert all(place.list() is first for _ in range(50))
    assert len(looks) == 3000
    os.utime(tmp_path / "7.done", (4e9, 4e9))
    place.refresh()
    assert place.list()[0].path.name == "7", "what an event told of"
    (tmp_path / "new.done").write_bytes(b"")
    assert "new" in [one.path.name for one in place.list()], "what the directory's own time tells of"


def test_few_markers_are_gone_through_at_each_look(tmp_path):
    path = make(tmp_path, "m", 5)
    os.utime(tmp_path, (5, 5))
    place = LocalSource(tmp_path)
    assert place.list()[0].marker.mtime_ns == 5_000_000_000
    os.utime(path.with_name("m.done"), (9, 9))
    time.sleep(0.2)
    assert place.list()[0].marker.mtime_ns == 9_000_000_000
