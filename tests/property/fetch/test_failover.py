"""Any sequence of failures on several mirrors: the good bytes arrive if one mirror gives them in the end."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from envtool.errors import HashMismatchError, NetworkError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.downloader import fetch
from envtool.fetch.failover import Timeouts
from tests.support import mirror_answers as say
from tests.support.mirror_answers import Answer
from tests.support.mirror_simulator import MirrorSimulator

CONTENT = random.Random(7).randbytes(20_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENCE = Timeouts(
    connect_timeout_s=5, read_timeout_s=0.15, min_bytes_per_s=0, attempts=5, backoff_s=0.001, max_backoff_s=0.002,
    max_wait_s=1,
)  # fmt: skip
MIRRORS = 3

positions = st.integers(0, len(CONTENT) - 1)
# A place that fails in one of these ways may have the right bytes a moment later.
transient = st.one_of(
    st.sampled_from(
        [
            say.status(429),
            say.status(429, 0),
            say.status(500),
            say.status(503),
            say.reset(),
            say.silent(),
        ]
    ),
    st.builds(say.truncated, positions),
    st.builds(say.reset, positions),
    st.builds(say.stalled, positions),
)
final = st.one_of(
    st.sampled_from(
        [
            say.status(403),
            say.status(404),
            say.html(),
            say.wrong_bytes(),
            say.status(416),
        ]
    ),
    st.builds(say.other_file, st.integers(0, 30_000).filter(lambda size: size != len(CONTENT))),
)
# Odd, but with the right bytes in it.
odd = st.sampled_from(
    [
        say.good(),
        say.range_ignored(),
        say.wrong_range(),
        say.gzipped(),
        say.chunked(),
    ]
)


@dataclass(frozen=True)
class Script:
    """How one mirror answers: some transient failures, then for ever the last one."""

    before: tuple[Answer, ...]
    then: Answer

    @property
    def is_good(self) -> bool:
        return self.then.kind in ("good", "range_ignored", "wrong_range", "gzip", "chunked")


# One failure fewer than a place is asked, and one that starts over with a wrong half may need one more.
scripts = st.builds(Script, st.lists(transient, max_size=3).map(tuple), st.one_of(odd, final, transient))


@pytest.fixture(scope="module")
def mirrors() -> Iterator[list[MirrorSimulator]]:
    with ExitStack() as stack:
        yield [stack.enter_context(MirrorSimulator()) for _ in range(MIRRORS)]


class Tally:
    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount

    def expect(self, total: int) -> None:
        pass


counter = iter(range(10**9))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=st.lists(scripts, min_size=1, max_size=MIRRORS),
    is_size_known=st.booleans(),
    partial=st.one_of(st.none(), positions, st.just(-1)),
)
def test_good_bytes_or_every_reason(
    mirrors: list[MirrorSimulator], plan: list[Script], is_size_known: bool, partial: int | None
) -> None:
    name = f"{next(counter)}.conda"
    urls = []
    for mirror, script in zip(mirrors, plan):
        urls.append(mirror.put(name, CONTENT))
        mirror.answer(name, *script.before, then=script.then)
    wanted = Wanted("a.conda", SHA256, tuple(urls), len(CONTENT) if is_size_known else None)
    with tempfile.TemporaryDirectory() as directory:
        cache, tally = Cache(Path(directory)), Tally()
        if partial is not None:
            cache.partial(wanted).parent.mkdir()
            cache.partial(wanted).write_bytes(b"wrong" if partial < 0 else CONTENT[:partial])
        found, message = attempt(wanted, cache, tally)
        event("arrived" if found else "failed")
        if found:
            assert found.read_bytes() == CONTENT
            assert tally.done == len(CONTENT)
        else:
            assert not any(each.is_good for each in plan), "a mirror had the bytes"
            assert all(url in message for url in urls)
            assert cache.find(wanted) is None
        stored = list(Path(directory).glob("sha256/*/*/*"))
        assert all(each.read_bytes() == CONTENT for each in stored)
    for mirror in mirrors:
        mirror.files.pop(name, None)


def attempt(wanted: Wanted, cache: Cache, tally: Tally) -> tuple[Path | None, str]:
    try:
        return fetch([wanted], cache, tally, patience=PATIENCE)[wanted], ""
    except (NetworkError, HashMismatchError) as error:
        return None, error.message
