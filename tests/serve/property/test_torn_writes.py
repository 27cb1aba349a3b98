"""Torn writes: what is served is always a committed checkpoint, whole.

A trainer is stopped at every prefix length and in every order of its steps; a state machine lets it be stopped, begin
again, and be looked at, in any succession.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torn import Server, StoppedTrainer, state


def checkpoint(seed):
    arrays = {"w": numpy.arange(4, dtype="float32") + seed}
    content = safetensors.numpy.save(arrays)
    # Another length for each, as real checkpoints have: padding in the header is part of the format.
    return content if seed % 2 else safetensors.numpy.save(arrays, metadata={"seed": str(seed)})


def manifest_of(content):
    return state(hashlib.sha256(content).hexdigest(), len(content))


OLD, NEW = checkpoint(1), checkpoint(2)
LENGTHS = range(len(NEW) + 1)


class Stage:
    """A place that serves an old checkpoint, published as it should be."""

    def __init__(self, directory: Path, is_watching_directory: bool, is_stated: bool) -> None:
        (directory / "place").mkdir()
        path = directory / "place" / "model.safetensors"
        self.trainer = StoppedTrainer(path)
        self.server = Server(path.parent if is_watching_directory else path, directory / "store")
        self.is_stated = is_stated
        self.trainer.write(OLD)
        self.trainer.mark(self.marker(OLD))
        self.server.look_for_long()
        assert self.server.content == OLD

    def marker(self, content):
        return manifest_of(content) if self.is_stated else b""


@pytest.fixture
def stage():
    directories = []

    def make(is_watching_directory=True, is_stated=True):
        # In memory where there is such a place: each of some thousand stages syncs its store.
        parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
        directories.append(tempfile.mkdtemp(dir=parent))
        return Stage(Path(directories[-1]), is_watching_directory, is_stated)

    yield make
    for directory in directories:
        shutil.rmtree(directory)


KINDS = list(itertools.product([True, False], [True, False]))


@pytest.mark.parametrize(("is_watching_directory", "is_stated"), KINDS)
def test_stopped_at_every_byte_in_place(stage, is_watching_directory, is_stated):
    for length in LENGTHS:
        here = stage(is_watching_directory, is_stated)
        here.trainer.write(NEW, length)  # over what is served, under the old marker
        here.server.look()
        here.server.look_for_long()
        assert here.server.content == OLD, length
    here.trainer.mark(here.marker(NEW))
    here.server.look_for_long()
    assert here.server.content == NEW


@pytest.mark.parametrize("is_marked_first", [True, False])
def test_stopped_at_every_byte_of_an_overwrite_that_does_not_truncate(stage, is_marked_first):
    """Half old and half new, and of the right length: only the hash tells."""
    new = checkpoint(3)
    assert len(new) == len(OLD)
    here = stage()
    if is_marked_first:
        here.trainer.mark(manifest_of(new))
    for length in range(len(new) + 1):
        mixture = new[:length] + OLD[length:]
        here.trainer.write(mixture)
        here.server.look_for_long()
        # The last bytes of both are the same, so the mixture is whole a little before the last is written.
        assert here.server.content == (new if is_marked_first and mixture == new else OLD), length


@pytest.mark.parametrize(("is_watching_directory", "is_stated"), KINDS)
def test_stopped_at_every_byte_before_the_rename(stage, is_watching_directory, is_stated):
    here = stage(is_watching_directory, is_stated)
    for length in LENGTHS:
        here.trainer.write(NEW, length, to_temporary=True)
        here.server.look_for_long()
        assert here.server.content == OLD, length
    here.trainer.rename()
    here.server.look_for_long()
    assert here.server.content == OLD
    here.trainer.mark(here.marker(NEW))
    here.server.look_for_long()
    assert here.server.content == NEW


@pytest.mark.parametrize("length", range(0, len(manifest_of(NEW)) + 1, 3))
def test_stopped_at_every_byte_of_the_marker(stage, length):
    here = stage()
    here.trainer.write(NEW)
    here.trainer.mark(manifest_of(NEW), length)
    here.server.look_for_long()
    assert here.server.content in (OLD, NEW)  # nothing at all in the marker is a marker, and the checkpoint is whole
    here.trainer.mark(manifest_of(NEW))
    here.server.look_for_long()
    assert here.server.content == NEW


STEPS = ("unmark", "write", "rename", "mark")
STOPS = sorted({0, 1, 7, 8, 9, len(OLD), len(NEW) // 2, len(NEW) - 1, len(NEW)})


@pytest.mark.parametrize("order", list(itertools.permutations(STEPS)))
def test_every_order_of_the_steps_with_a_stated_hash(stage, order):
    """Also a trainer that does it all in the wrong order is found out by the hash, in every state that it leaves."""
    for length, to_temporary, stop in itertools.product(STOPS, (True, False), range(len(STEPS) + 1)):
        here = stage()
        for step in order[:stop]:
            if step == "write":
                here.trainer.write(NEW, length, to_temporary)
            else:
                getattr(here.trainer, step)(*([manifest_of(NEW)] if step == "mark" else []))
            here.server.look()
        here.server.look_for_long()
        assert here.server.content in (OLD, NEW), (order, length, to_temporary, stop)
        here.trainer.path.unlink(missing_ok=True)
        shutil.rmtree(here.trainer.path.parent.parent)
        here.trainer.path.parent.parent.mkdir()


class Publishing(RuleBasedStateMachine):
    """Trainers that keep to the protocol, are stopped anywhere, and begin again; a server that looks at any time."""

    @initialize(is_watching_directory=st.booleans())
    def begin(self, is_watching_directory):
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        (self.directory / "place").mkdir()
        path = self.directory / "place" / "m.safetensors"
        self.trainer = StoppedTrainer(path)
        self.server = Server(path.parent if is_watching_directory else path, self.directory / "store")
        self.committed: list[bytes] = []
        self.seed, self.written, self.is_renamed = 0, 0, False

    def teardown(self):
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    @rule(by_rename=st.booleans())
    def start_over(self, by_rename):
        """Stop whatever was going on, and begin with the next checkpoint."""
        self.seed += 1
        self.content, self.by_rename = checkpoint(self.seed), by_rename
        self.written, self.is_renamed = 0, False
        if by_rename:
            self.trainer.unmark()

    @precondition(lambda self: self.seed and self.written < len(self.content) and not self.is_renamed)
    @rule(count=st.integers(1, 80))
    def write_some(self, count):
        self.written = min(self.written + count, len(self.content))
        self.trainer.write(self.content, self.written, to_temporary=self.by_rename)

    @precondition(lambda self: self.seed and self.by_rename and self.written == len(self.content))
    @rule()
    def rename(self):
        self.trainer.rename()
        self.is_renamed = True

    @precondition(
        lambda self: self.seed and self.written == len(self.content) and (self.is_renamed or not self.by_rename)
    )
    @rule(is_stated=st.booleans())
    def mark(self, is_stated):
        self.committed.append(self.content)
        self.trainer.mark(manifest_of(self.content) if is_stated else b"")

    @rule(wait_s=st.sampled_from([0.0, 0.1, 1.0]))
    def look(self, wait_s):
        self.server.look(wait_s)

    @precondition(lambda self: self.committed and self.committed[-1] == self.content)
    @rule()
    def look_until_it_is_served(self):
        self.server.look_for_long()
        assert self.server.content == self.committed[-1]

    @invariant()
    def only_whole_commits_are_served(self):
        if hasattr(self, "server"):
            assert self.server.content is None or self.server.content in self.committed


Publishing.TestCase.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
TestPublishing = Publishing.TestCase
