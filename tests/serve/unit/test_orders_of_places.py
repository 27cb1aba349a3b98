"""Whatever happens to the watched place, in whatever order: each whole checkpoint is served or explained, once."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import bare
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.__main__ import main

HOUR_S = 3600


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    bare.be_impatient(monkeypatch)


def write(path, content, ago_s=0.0, marker=b""):
    """Copy a checkpoint and its marker there, with the times that they have elsewhere."""
    at = time.time() - ago_s
    path.parent.mkdir(exist_ok=True)
    for target, text in ((path, content), (path.with_name(path.name + ".done"), marker)):
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_bytes(text)
        os.utime(temporary, (at, at))
        temporary.replace(target)


class Scene:
    """A watched place, a worker, and what people do there."""

    def __init__(self, directory, mode, commit):
        self.directory, self.mode, self.commit = directory, mode, commit
        self.releases, self.attic = directory / "releases", directory / "attic"
        self.attic.mkdir()
        self.count = 0
        if mode == "directory":
            self.place = self.releases
            self.releases.mkdir()
        else:
            self.place = directory / "current" / "m"
            for number in (1, 2):
                write(self.releases_of(number) / "m", b"release %d" % number, HOUR_S * number)
            self.link(1)
        self.worker = self.start()
        self.known = {}

    def releases_of(self, number):
        self.releases.mkdir(exist_ok=True)
        return self.releases / str(number)

    def start(self):
        return bare.Worker(self.directory / "store", self.place, self.commit)

    def link(self, number):
        new = self.directory / "new"
        new.symlink_to(self.releases_of(number), target_is_directory=True)
        new.replace(self.directory / "current")

    def target(self, fresh):
        if self.mode != "directory":
            return self.place
        self.count += 1
        names = sorted(path.name[:-5] for path in self.place.glob("*.done"))
        return self.place / (f"m{self.count}" if fresh or not names else names[-1])

    def new(self):
        self.count += 1
        return b"content %d" % self.count

    def here(self):
        return [self.place] if self.mode != "directory" else sorted(self.place.glob("m*[0-9]"))

    # What people do.
    def publish(self):
        write(self.target(True), self.new())

    def overwrite(self):
        write(self.target(False), self.new())

    def copy_with_old_times(self):
        write(self.target(True), self.new(), 2 * HOUR_S)

    def publish_by_a_clock_ahead(self):
        write(self.target(True), self.new(), -HOUR_S)

    def mark_before_the_file(self):
        marker = self.target(True)
        marker.with_name(marker.name + ".done").write_bytes(b"")

    def touch(self):
        for path in self.here()[:1]:
            marker = path.with_name(path.name + ".done")
            if marker.exists():
                os.utime(marker)

    def remove(self):
        for path in self.here()[-1:]:
            for each in (path, path.with_name(path.name + ".done")):
                if each.exists():
                    each.replace(self.attic / each.name)

    def restore(self):
        for path in sorted(self.attic.iterdir()):
            path.replace(self.place.parent / path.name if self.mode != "directory" else self.place / path.name)

    def link_to_another(self):
        if self.mode != "directory":
            is_one = os.readlink(self.directory / "current").endswith("1")  # noqa: PTH115
            self.link(2 if is_one else 1)

    def roll_back(self):
        if len(self.worker.ledger.read()) > 1:
            try:
                self.worker.operations().rollback(None)
            except Exception:
                return

    def restart(self):
        self.worker.leave()
        log = self.worker.log
        self.worker = self.start()
        self.worker.log[:0] = log

    def check(self):
        self.worker.look()
        worker, reloader = self.worker, self.worker.reloader
        entries = worker.ledger.read()
        answering = entries[-1] if entries else None
        assert not worker.log.of("fault"), worker.log
        notes = worker.notes()
        whole = {p.name: p.read_bytes() for p in self.here() if p.exists() and p.with_name(p.name + ".done").exists()}
        for name, content in whole.items():
            is_said = name in notes or "it was rolled back" in reloader.status.verdict
            # What was served or explained at a time, and is as it was, need not be explained again.
            is_history = self.known.get(name) == content
            assert content == worker.live or is_said or is_history, (
                name,
                content,
                worker.live,
                reloader.status.verdict,
                notes,
            )
            if f"{name}: it is being served" in reloader.status.verdict:
                assert content == worker.live, "it is said to be served, and is not"
        for name, note in notes.items():
            assert whole.get(name) != worker.live or note.code == "waiting", "what is served is said not to be"
            if note.code != "removed":
                assert reloader.status.unserved_ns is not None, note
        said = [(line["checkpoint"], line["code"], line["reason"]) for line in worker.log.of("unserved")]
        self.known.update({name: whole[name] for name in notes if name in whole})
        for name in notes:
            assert any(Path(checkpoint).name == name for checkpoint, _, _ in said), "it was not logged"
        if self.mode != "directory" and whole and answering and answering.cause == "checkpoint":
            assert worker.live == whole["m"] or notes, reloader.status.verdict
        self.known.update({name: content for name, content in whole.items() if content == worker.live})


ACTIONS = (
    "publish", "overwrite", "copy_with_old_times", "publish_by_a_clock_ahead", "mark_before_the_file", "touch",
    "remove", "restore", "link_to_another", "roll_back", "restart",
)  # fmt: skip
SHM = Path("/dev/shm")


def assert_order(mode, commit, actions):
    directory = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None))
    try:
        scene = Scene(directory, mode, commit)
        scene.publish()
        scene.check()
        for action in actions:
            getattr(scene, action)()
            try:
                scene.check()
            except AssertionError as error:
                raise AssertionError(f"{mode}, {commit}, {actions}, at {action}: {error}") from error
        scene.worker.leave()
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("commit", ["host", pytest.param("worker", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("mode", ["directory", "file"])
def test_every_order_of_two(mode, commit):
    for actions in itertools.product(ACTIONS, repeat=2):
        assert_order(mode, commit, actions)


@pytest.mark.parametrize("commit", ["host", "worker"])
def test_a_marker_that_is_touched_under_what_was_rolled_back_is_not_outranked(commit):
    assert_order("directory", commit, ["publish_by_a_clock_ahead", "roll_back", "touch"])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["directory", "file"]),
    st.sampled_from(["host", "worker"]),
    st.lists(st.sampled_from(ACTIONS), min_size=3, max_size=7),
)
def test_any_order_of_more(mode, commit, actions):
    assert_order(mode, commit, actions)


def test_a_remote_place_tells_of_what_came_too_late(tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="the extra [remote] is not installed")
    system = fsspec.filesystem("memory")
    system.store.clear()
    worker = bare.Worker(tmp_path / "store", Path("memory://ck"))

    def put(name, generation):
        content = name.encode()
        system.pipe_file(f"/ck/{name}", content)
        stated = {"sha256": hashlib.sha256(content).hexdigest(), "generation": generation}
        system.pipe_file(f"/ck/{name}.done", json.dumps(stated).encode())
        worker.look()

    put("first", 5)
    put("late", 3)
    assert (worker.live, set(worker.notes())) == (b"first", {"late"})
    assert worker.reloader.status.unserved_ns is not None
    put("next", 6)
    assert (worker.live, worker.notes()) == (b"next", {})
    assert worker.reloader.status.unserved_ns is None
    worker.leave()
    for name, generation in (("older", 2), ("first", 5)):  # while no server runs; the second one in place of itself
        content = name.encode() + b"2"
        system.pipe_file(f"/ck/{name}", content)
        stated = {"sha256": hashlib.sha256(content).hexdigest(), "generation": generation}
        system.pipe_file(f"/ck/{name}.done", json.dumps(stated).encode())
    again = bare.Worker(tmp_path / "store", Path("memory://ck"))
    again.look()
    assert (again.live, set(again.notes())) == (b"next", {"older", "first"}), "late is history"
    assert {line["checkpoint"] for line in again.log.of("unserved")} == {"memory:/ck/older", "memory:/ck/first"}
    assert again.reloader.status.unserved_ns is not None
    assert "older" in again.reloader.status.verdict
    again.leave()
    system.store.clear()


def test_the_operators_see_what_is_not_served(tmp_path, capsys):
    worker = bare.Worker(tmp_path / "store", tmp_path / "ck")
    write(tmp_path / "ck" / "new", b"new")
    worker.look()
    write(tmp_path / "ck" / "old", b"old", HOUR_S)
    worker.look()
    assert main(["status", "--store", str(tmp_path / "store")]) == 0
    text = capsys.readouterr().out
    assert "old         outranked" in text
    assert "hint: touch the marker" in text
    assert worker.log.of("unserved")[0]["checkpoint"] == str(tmp_path / "ck" / "old")
    assert [line["event"] for line in worker.log].count("unserved") == 1


def test_what_came_while_the_server_was_down_is_told(tmp_path):
    worker = bare.Worker(tmp_path / "store", tmp_path / "ck")
    for number in range(3):
        write(tmp_path / "ck" / f"m{number}", b"%d" % number, 10 - number)
    worker.look()
    worker.leave()
    time.sleep(0.02)
    write(tmp_path / "ck" / "late", b"late", HOUR_S)
    again = bare.Worker(tmp_path / "store", tmp_path / "ck")
    again.look()
    assert (again.live, set(again.notes())) == (b"2", {"late"}), "those before it are history"
