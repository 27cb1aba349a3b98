"""Every way in which a mirror fails, over real HTTP: the next one is asked, and what is kept is right."""

from __future__ import annotations

import email.utils
import hashlib
import time

import pytest

from envtool.errors import HashMismatchError, NetworkError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.downloader import fetch
from envtool.fetch.failover import Timeouts
from tests.functional.fetch.conftest import CONTENT, SHA256, Tally
from tests.support import mirror_answers as say
from tests.support import mirror_simulator as sim
from tests.support.mirror_answers import Answer
from tests.support.mirror_simulator import MirrorSimulator

SIZES = [pytest.param(None, id="size unknown"), pytest.param(len(CONTENT), id="size known")]
FAILURES = [
    say.status(403), say.status(404), say.status(429), say.status(500), say.status(503), say.html(), say.wrong_bytes(),
    say.other_file(30), say.other_file(400_000), say.truncated(100_000), say.cut_without_length(100_000), say.reset(),
    say.reset(100_000), say.stalled(100_000), say.silent(), say.redirect("http://127.0.0.1:1/a.conda"),
    say.status(503, retry_after="Fri, 01 Jan 99999 00:00:00 GMT"),
]  # fmt: skip


def describe(answer: Answer) -> str:
    return f"{answer.kind} {answer.number:.0f}"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("failure", FAILURES, ids=describe)
def test_the_next_mirror_is_asked_on_any_failure(
    failure: Answer,
    size: int | None,
    mirror: MirrorSimulator,
    other: MirrorSimulator,
    cache: Cache,
    tally: Tally,
    patience: Timeouts,
) -> None:
    mirror.answer("*", then=failure)
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda", other.url + "a.conda"), size)
    began_s = time.monotonic()
    assert fetch([wanted], cache, tally, patience=patience)[wanted].read_bytes() == CONTENT
    assert (tally.done, tally.total) == (len(CONTENT), len(CONTENT))
    assert len(mirror.requests) == 1, "the other mirror has it, so this one need not be asked again"
    assert time.monotonic() - began_s < 10
    assert list((cache.root / "partial").iterdir()) == []


@pytest.mark.parametrize("failure", FAILURES, ids=describe)
def test_when_all_fail_every_place_has_its_own_reason(
    failure: Answer, mirror: MirrorSimulator, other: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    mirror.answer("*", then=failure)
    other.answer("*", then=say.status(404))
    urls = tuple(each.url.replace("//", "//me:secret@") + "a.conda" for each in (mirror, other))
    with pytest.raises(NetworkError) as caught:
        fetch([Wanted("a.conda", SHA256, urls)], cache, tally, patience=patience)
    lines = caught.value.message.splitlines()
    assert lines[1].startswith(f"  {mirror.url}a.conda: ")
    assert lines[2] == f"  {other.url}a.conda: HTTP 404 Not Found"
    assert "secret" not in caught.value.message
    assert not cache.find(Wanted("a.conda", SHA256, ()))
    assert len(other.requests) == 1


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (say.status(403), "HTTP 403 Forbidden"),
        (say.html(), "an HTML page instead of the file"),
        (say.other_file(30), "expected 300000 bytes, got 30 bytes"),
        (say.cut_without_length(10), "ended after 10 of 300,000 bytes"),
        (say.silent(), "no answer in time"),
        (say.stalled(300), "silent for 0.5 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_reasons_are_for_people(
    failure: Answer, reason: str, mirror: MirrorSimulator, cache: Cache, tally: Tally
) -> None:
    mirror.answer("*", then=failure)
    urls = (mirror.url + "a.conda", sim.closed_port_url() + "a.conda")
    hasty = Timeouts(read_timeout_s=0.5, attempts=1)
    with pytest.raises(NetworkError) as caught:
        fetch([Wanted("a.conda", SHA256, urls, len(CONTENT))], cache, tally, patience=hasty)
    _, first, second = caught.value.message.splitlines()
    assert first.endswith(f": {reason}")
    assert "no connection: " in second
    assert "Connection refused" in second


def test_a_page_is_known_by_its_beginning_whatever_the_server_calls_it(
    mirror: MirrorSimulator, other: MirrorSimulator, cache: Cache, tally: Tally
) -> None:
    mirror.answer("*", then=say.html("application/octet-stream"))
    other.answer("*", then=say.status(404))
    urls = (mirror.url + "a.conda", other.url + "a.conda")
    with pytest.raises(NetworkError, match=r"a\.conda: an HTML page instead of the file"):
        fetch([Wanted("a.conda", SHA256, urls)], cache, tally)


def test_a_place_without_tls_and_a_name_that_nobody_knows(mirror: MirrorSimulator, cache: Cache, tally: Tally) -> None:
    urls = (mirror.url.replace("http:", "https:") + "a.conda", "http://no-such-host.invalid/a.conda")
    with pytest.raises(NetworkError) as caught:
        fetch([Wanted("a.conda", SHA256, urls)], cache, tally, patience=Timeouts(attempts=1))
    _, tls, dns = caught.value.message.splitlines()
    assert "TLS failed" in tls
    assert dns.endswith("the host name is not known (DNS)")


def test_the_only_place_gave_other_bytes(
    mirror: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    mirror.answer("*", then=say.wrong_bytes())
    with pytest.raises(HashMismatchError) as caught:
        fetch([Wanted("a.conda", SHA256, (mirror.url + "a.conda",))], cache, tally, patience=patience)
    assert caught.value.expected == f"sha256:{SHA256}"
    assert len(mirror.requests) == 1
    assert tally.done == 0


def test_a_place_that_has_nothing_is_not_asked_again_while_others_recover(
    mirror: MirrorSimulator, other: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    mirror.answer("*", then=say.status(404))
    other.answer("*", say.status(503), say.status(500), say.reset())
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda", other.url + "a.conda"))
    fetch([wanted], cache, tally, patience=patience)
    assert (len(mirror.requests), len(other.requests)) == (1, 4)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_place_that_asks_to_wait_is_left_alone_until_then(
    form: str, mirror: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    # A date has whole seconds only, so that a wait of two may be one and a little.
    header = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    mirror.answer("*", say.status(429, header))
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    fetch([wanted], cache, tally, patience=patience)
    first, second = mirror.requests
    assert 0.95 <= second.at_s - first.at_s < 3.5


def test_another_place_is_used_meanwhile(
    mirror: MirrorSimulator, other: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    mirror.answer("*", say.status(503, 4))
    other.answer("*", say.status(500), say.status(500))
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda", other.url + "a.conda"))
    began_s = time.monotonic()
    fetch([wanted], cache, tally, patience=patience)
    assert time.monotonic() - began_s < 2
    assert (len(mirror.requests), len(other.requests)) == (1, 3)


def test_too_long_a_wait_is_no_wait(mirror: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts) -> None:
    mirror.answer("*", then=say.status(429, 3600))
    with pytest.raises(NetworkError, match="HTTP 429 Too Many Requests"):
        fetch([Wanted("a.conda", SHA256, (mirror.url + "a.conda",))], cache, tally, patience=patience)
    assert len(mirror.requests) == 1


def test_a_mirror_that_is_down_is_asked_last_for_the_other_files(
    mirror: MirrorSimulator, other: MirrorSimulator, cache: Cache, tally: Tally, patience: Timeouts
) -> None:
    mirror.answer("*", then=say.silent())
    files = [Wanted("a.conda", SHA256, (mirror.url + "a.conda", other.url + "a.conda"))]
    for i in range(40):
        content = f"{i}".encode()
        other.put(f"{i}.conda", content)
        urls = (f"{mirror.url}{i}.conda", f"{other.url}{i}.conda")
        files.append(Wanted(f"{i}.conda", hashlib.sha256(content).hexdigest(), urls))
    began_s = time.monotonic()
    fetch(files, cache, tally, patience=patience)
    assert len(mirror.requests) <= 8, "one for each thread that could not know better"
    assert time.monotonic() - began_s < 5


def test_a_trickle_is_left_for_a_quicker_place_but_suffered_where_there_is_none(
    mirror: MirrorSimulator, other: MirrorSimulator, cache: Cache, tally: Tally
) -> None:
    patience = Timeouts(read_timeout_s=0.3, min_bytes_per_s=1_000_000)
    mirror.answer("*", then=say.trickle(200_000))
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda", other.url + "a.conda"))
    fetch([wanted], cache, tally, patience=patience)
    continued = other.requests[0].range
    assert continued is not None
    assert int(continued.removeprefix("bytes=").removesuffix("-")) > 0, "and what has trickled in is not lost"
    alone = Wanted("b.conda", SHA256, (mirror.url + "a.conda",))
    assert fetch([alone], cache, tally, patience=patience)[alone].read_bytes() == CONTENT


def test_a_slow_line_is_no_error_however_long_it_takes(mirror: MirrorSimulator, cache: Cache, tally: Tally) -> None:
    mirror.answer("*", then=say.trickle(150_000))
    wanted = Wanted("a.conda", SHA256, (mirror.url + "a.conda",))
    fetch([wanted], cache, tally, patience=Timeouts(read_timeout_s=0.5))
    assert len(mirror.requests) == 1
