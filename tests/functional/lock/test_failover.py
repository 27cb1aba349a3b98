"""Repodata from a mirror that fails in every way, and from the next one that does not."""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from envtool.mirrors.mirrors import Mirrors
from envtool.solve.repodata_proxy import RepodataProxy
from tests.support import repodata_server
from tests.support.mirror_answers import (
    Answer,
    cut_without_length,
    html,
    reset,
    silent,
    stalled,
    status,
    truncated,
    wrong_bytes,
)
from tests.support.mirror_simulator import MirrorSimulator
from tests.support.repodata_server import serving

EXTRACT = Path(__file__).parents[2] / "data" / "repodata"
CANONICAL = "https://conda.anaconda.org/conda-forge/"
SPEC = "channels: [conda-forge]\nplatforms: [linux-64]\ndependencies: [python=3.9]\n"
QUICK = {"ENVTOOL_CONNECT_TIMEOUT_S": "5", "ENVTOOL_READ_TIMEOUT_S": "2", "ENVTOOL_ATTEMPTS": "2"}


@pytest.fixture
def pair() -> Iterator[tuple[MirrorSimulator, MirrorSimulator]]:
    """Two mirrors of conda-forge."""
    with MirrorSimulator() as first, MirrorSimulator() as second:
        for each in (first, second):
            each.put_tree(EXTRACT / "conda-forge")
        yield first, second


@pytest.fixture
def lock(envtool, write, tmp_path: Path):
    """Locks through some mirrors, with nothing kept from before."""

    def run(*mirrors: MirrorSimulator, **variables: str):
        write(SPEC)
        known = " ".join(f"{CANONICAL}={mirror.url}" for mirror in mirrors)
        return envtool("lock", ENVTOOL_MIRRORS=known, ENVTOOL_HOME=str(tmp_path / "home"), **{**QUICK, **variables})

    return run


@pytest.mark.parametrize(
    "bad",
    [
        status(403),
        status(404),
        status(429),
        status(500),
        html(),
        html("application/octet-stream"),
        truncated(at=2000),
        cut_without_length(at=2000),
        wrong_bytes(),
        stalled(after=2000),
        silent(),
        reset(),
    ],
    ids=lambda answer: f"{answer.kind}-{answer.number:g}{answer.text[:11]}",
)
def test_the_next_mirror_is_asked(lock, pair, tmp_path: Path, bad: Answer) -> None:
    first, second = pair
    first.answer("*", then=bad)
    answer = lock(first, second)
    assert answer.returncode == 0, answer.stderr
    assert first.requests
    text = (tmp_path / "conda-lock.yml").read_text()
    assert "https://conda.anaconda.org/conda-forge/linux-64/python-3.9" in text
    assert "127.0.0.1" not in text


def test_every_mirror_is_listed_when_none_has_it(lock, pair) -> None:
    first, second = pair
    first.answer("*", then=status(403))
    second.answer("*", then=html())
    answer = lock(first, second, HTTPS_PROXY="http://127.0.0.1:1", https_proxy="http://127.0.0.1:1")
    assert answer.returncode == 3
    # The solver gives up at the first subdir that fails, whichever that is.
    assert re.search(rf"{first.url}(linux-64|noarch)/repodata\.json: HTTP 403", answer.stderr)
    assert re.search(rf"{second.url}(linux-64|noarch)/repodata\.json: an HTML page instead of the file", answer.stderr)
    assert re.search(rf"{CANONICAL}(linux-64|noarch)/repodata\.json: ", answer.stderr)


def test_a_mirror_says_that_nothing_has_changed_and_another_does_not_say_it_for_it(mirror: str, tmp_path: Path) -> None:
    older = tmp_path / "conda-forge/linux-64/repodata.json"
    older.parent.mkdir(parents=True)
    older.write_bytes(b'{"packages": {}}')
    os.utime(older, (0, 0))  # a file that has not changed since the copy of the other mirror was made
    answers = []

    def ask(mirror: str, etag: str | None) -> str:
        relay = RepodataProxy(Mirrors({CANONICAL: (f"{mirror}/conda-forge/",)}))
        base = urlsplit(relay.by_prefix[CANONICAL][0])
        connection = http.client.HTTPConnection(base.netloc)
        # The solver sends a date of its own with each ETag.
        headers = {"If-None-Match": etag, "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"} if etag else {}
        connection.request("GET", f"{base.path}linux-64/repodata.json", headers=headers)
        response = connection.getresponse()
        answers.append((response.status, len(response.read())))
        return response.headers["ETag"] or ""

    with serving(tmp_path) as other:
        etag = ask(mirror, None)
        assert ask(mirror, etag) == etag
        ask(other, etag)
        ask(mirror, '"of an earlier version"')
        ask(mirror, '"MTIz"')  # one that reads as a number
    size_bytes = (EXTRACT / "conda-forge/linux-64/repodata.json").stat().st_size
    assert answers == [(200, size_bytes), (304, 0), (200, 16), (200, size_bytes), (200, size_bytes)]


def test_records_that_have_not_changed_are_never_fetched_again(
    envtool, write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[int] = []

    def note(handler: repodata_server._Handler, code: int, size: object = None) -> None:
        if handler.path.endswith("/repodata.json"):
            answers.append(int(code))

    monkeypatch.setattr(repodata_server._Handler, "log_request", note)
    write(SPEC)
    with serving(EXTRACT) as base:
        for _ in range(4):
            home, mirrors = str(tmp_path / "home"), f"{CANONICAL}={base}/conda-forge/"
            answer = envtool("lock", ENVTOOL_MIRRORS=mirrors, ENVTOOL_HOME=home, **QUICK)
            assert answer.returncode == 0, answer.stderr
            (tmp_path / "conda-lock.yml").unlink()
    assert answers == [200] * 2 + [304] * 6


def test_nobody_reads_through_the_relay_who_does_not_know_its_path(mirror: str) -> None:
    relay = RepodataProxy(Mirrors({CANONICAL: (f"{mirror}/conda-forge/",)}))
    connection = http.client.HTTPConnection(urlsplit(relay.by_prefix[CANONICAL][0]).netloc)
    connection.request("GET", "/0/linux-64/repodata.json")
    assert connection.getresponse().status == 404


def test_a_preset_that_is_in_use_serves_repodata_too(envtool, write, pair, tmp_path: Path) -> None:
    first, _ = pair
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[mirrors]\nuse = "own"\n\n[presets.own.channels]\n"{CANONICAL}" = "{first.url}"\n'
    )
    write(SPEC)
    answer = envtool("lock", ENVTOOL_MIRRORS="", ENVTOOL_HOME=str(home), **QUICK)
    assert answer.returncode == 0, answer.stderr
    assert any(request.path.startswith("linux-64/repodata") for request in first.requests)
    assert (tmp_path / "conda-lock.yml").exists()


def test_a_mirror_that_asks_to_wait_is_left_alone_until_then(lock, pair) -> None:
    first, second = pair
    first.answer("*", then=status(429, retry_after=30))
    answer = lock(first, second)
    assert answer.returncode == 0, answer.stderr
    assert len(first.requests) < 4  # those that were on their way when it first said so


def test_the_only_mirror_asks_to_wait(lock, pair) -> None:
    first, _ = pair
    first.answer("*/repodata.json", status(429, retry_after=4))
    answer = lock(first, HTTPS_PROXY="http://127.0.0.1:1", https_proxy="http://127.0.0.1:1", ENVTOOL_BACKOFF_S="0")
    assert answer.returncode == 0, answer.stderr
    assert "asked again in 4 s" in answer.stderr
    times = [each.at_s for each in first.asked("linux-64/repodata.json")]
    assert times[1] - times[0] > 3.5


def test_a_wait_that_is_too_long_is_not_waited_for(lock, pair) -> None:
    first, _ = pair
    first.answer("*", then=status(503, retry_after=3600))
    answer = lock(first, HTTPS_PROXY="http://127.0.0.1:1", https_proxy="http://127.0.0.1:1", ENVTOOL_BACKOFF_S="0")
    assert answer.returncode == 3
    assert f"{first.url}linux-64/repodata.json: not asked, since it wants to be left alone" in answer.stderr


def test_nobody_waits_for_another_form_of_records_that_are_there(lock, pair) -> None:
    first, second = pair
    second.answer("*", then=reset())
    answer = lock(first, second)
    assert answer.returncode == 0, answer.stderr
    asked = [request.path for request in second.requests]
    assert asked
    assert len(asked) == len(set(asked))
    assert not any(path.endswith("repodata.json") for path in asked)
