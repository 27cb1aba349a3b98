"""A download goes on where it stopped: at the same mirror, at another, or after the process was killed."""

from __future__ import annotations

import gzip
import hashlib

import pytest

from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.downloader import fetch
from envtool.fetch.failover import Timeouts
from tests.functional.fetch.conftest import CONTENT, SHA256, Tally
from tests.support import mirror_answers as say
from tests.support import mirror_simulator as sim
from tests.support.mirror_answers import Answer
from tests.support.mirror_simulator import MirrorSimulator

HALF = 150_000


def leave_partial(cache: Cache, content: bytes) -> None:
    partial = cache.partial(Wanted("a.conda", SHA256, ()))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content)


@pytest.mark.parametrize(
    ("answers", "ranges"),
    [
        pytest.param([], [f"bytes={HALF}-"], id="goes on"),
        pytest.param([say.range_ignored()], [f"bytes={HALF}-"], id="200 to a range is taken from the beginning"),
        pytest.param([say.gzipped()], [f"bytes={HALF}-"], id="a compressed whole"),
        pytest.param([say.wrong_range()], [f"bytes={HALF}-", None], id="another range"),
        pytest.param([say.wrong_range(-7)], [f"bytes={HALF}-", None], id="a range before the one"),
        pytest.param([say.status(416)], [f"bytes={HALF}-", None], id="416"),
        pytest.param([say.wrong_bytes()], [f"bytes={HALF}-", None], id="wrong second half: the whole from this place"),
        pytest.param(
            [say.truncated(200_000), say.reset(250_000)], [f"bytes={HALF}-", "bytes=200000-", "bytes=250000-"],
            id="broken twice more",
        ),
    ],
)  # fmt: skip
def test_what_is_there_is_gone_on_with(
    answers: list[Answer], ranges: list[str], mirror: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    leave_partial(cache, CONTENT[:HALF])
    mirror.answer("*", *answers)
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    assert fetch([wanted], cache, tally, patience=patience)[wanted].read_bytes() == CONTENT
    asked = [request.range for request in mirror.requests]
    if answers[:1] == [say.truncated(200_000)] and len(asked) == 3:
        asked[2] = ranges[2]  # how much of a reset connection arrives is the kernel's to decide
    assert asked == ranges
    assert tally.done == tally.total == len(CONTENT)


@pytest.mark.parametrize(
    "partial",
    [
        pytest.param(b"x" * HALF, id="other bytes"),
        pytest.param(CONTENT + b"x", id="longer than the file"),
        pytest.param(b"x" * len(CONTENT), id="as long as the file"),
        pytest.param(b"", id="nothing"),
    ],
)
@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_wrong_beginning_is_not_the_mirrors_fault(
    partial: bytes, size: int | None, mirror: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    leave_partial(cache, partial)
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",), size)
    assert fetch([wanted], cache, tally, patience=patience)[wanted].read_bytes() == CONTENT
    assert tally.done == len(CONTENT)


def test_a_whole_that_was_not_moved_yet_needs_no_network(cache: Cache, tally: Tally) -> None:
    leave_partial(cache, CONTENT)
    wanted = Wanted("a.conda", SHA256, (sim.closed_port_url() + "a.conda",))
    assert fetch([wanted], cache, tally)[wanted].read_bytes() == CONTENT


def test_another_mirror_goes_on(
    mirror: MirrorSimulator, other: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    mirror.answer("*", then=say.truncated(HALF))
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda", other.url + "a.conda"))
    fetch([wanted], cache, tally, patience=patience)
    assert [request.range for request in other.requests] == [f"bytes={HALF}-"]


def test_half_of_another_file_is_given_up_and_the_good_mirror_is_not_blamed(
    mirror: MirrorSimulator, other: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    mirror.put("a.conda", b"x" * len(CONTENT))
    mirror.answer("*", then=say.truncated(HALF))
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda", other.url + "a.conda"), len(CONTENT))
    assert fetch([wanted], cache, tally, patience=patience)[wanted].read_bytes() == CONTENT
    assert [request.range for request in other.requests] == [f"bytes={HALF}-", None]


def test_a_mirror_that_breaks_off_again_and_again_brings_the_file_in_the_end(
    mirror: MirrorSimulator, cache: Cache, tally: Tally
) -> None:
    size = 3_000_000
    content = CONTENT * 10
    mirror.put("big.conda", content)
    mirror.answer("big.conda", *(say.truncated(at) for at in range(200_000, size, 200_000)))
    wanted = Wanted("big.conda", hashlib.sha256(content).hexdigest(), (mirror.url + "big.conda",))
    fetch([wanted], cache, tally, patience=Timeouts(attempts=2, backoff_s=0.001))
    assert len(mirror.requests) == 15, "more often than attempts, since each brought something"


@pytest.mark.parametrize("answer", [say.chunked(), say.gzipped()], ids=["chunked", "gzip"])
def test_a_body_without_a_size_is_counted_all_the_same(
    answer: Answer, mirror: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    mirror.answer("*", answer)
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    assert fetch([wanted], cache, tally, patience=patience)[wanted].read_bytes() == CONTENT
    assert tally.done == tally.total == len(CONTENT)


def test_a_gz_file_is_not_unpacked_because_a_server_calls_it_an_encoding(
    mirror: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    mirror.put("a.tar.gz", CONTENT)
    mirror.answer("*", say.gzipped())
    packed = gzip.compress(CONTENT, mtime=0)
    mirror.put("a.tar.gz", CONTENT)
    wanted = Wanted("a.tar.gz", hashlib.sha256(packed).hexdigest(), (mirror.url + "a.tar.gz",))
    assert fetch([wanted], cache, tally, patience=patience)[wanted].read_bytes() == packed
