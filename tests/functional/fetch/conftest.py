"""Mirrors, a cache and a short patience for the tests of downloads."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from envtool.fetch.archive_cache import Cache
from envtool.fetch.failover import Timeouts
from tests.support.mirror_simulator import MirrorSimulator

CONTENT = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Tally:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.done = 0
        self.total: int | None = None

    def advance(self, amount: int) -> None:
        self.done += amount

    def expect(self, total: int) -> None:
        self.total = total


@pytest.fixture
def mirror() -> Iterator[MirrorSimulator]:
    with MirrorSimulator() as simulator:
        simulator.put("a.conda", CONTENT)
        yield simulator


@pytest.fixture
def other() -> Iterator[MirrorSimulator]:
    with MirrorSimulator() as simulator:
        simulator.put("a.conda", CONTENT)
        yield simulator


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def patience() -> Timeouts:
    return Timeouts(connect_timeout_s=5, read_timeout_s=0.5, backoff_s=0.02, max_wait_s=5)
