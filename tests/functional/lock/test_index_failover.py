"""A package index that fails in every way, and the next one that does not; uv asks both over real HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from envtool.errors import SolveError
from envtool.lockfile.model import LockedPackage
from envtool.mirrors import pip_index
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import resolve
from envtool.pypi.resolve import Target, WheelRequest
from tests.support.mirror_answers import Answer, html, reset, silent, stalled, status
from tests.support.mirror_simulator import MirrorSimulator, closed_port_url
from tests.support.wheels import write_wheel

INDEX = "http://index.invalid/simple/"
FILES = "http://files.invalid/"


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "ENVTOOL_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
    settings = {"PIP_CONFIG_FILE": "/dev/null", "ENVTOOL_READ_TIMEOUT_S": "2", "UV_CACHE_DIR": str(tmp_path / "uv")}
    for name, value in {**settings, "ENVTOOL_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[MirrorSimulator, MirrorSimulator]]:
    """Two mirrors of an index with one package."""
    wheel = write_wheel(tmp_path, "hello_world", "1.0", {"hello_world.py": ""}, {})
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with MirrorSimulator() as first, MirrorSimulator() as second:
        for each in (first, second):
            url = each.put(f"packages/{wheel.name}", wheel)
            page = f'<!DOCTYPE html><a href="{url}#sha256={sha256}">{wheel.name}</a>'
            each.put("simple/hello-world/", page.encode())
        yield first, second


def choose(*places: str) -> list[LockedPackage]:
    files = tuple(place.replace("simple/", "packages/") for place in places)
    mirrors = Mirrors({INDEX: places, FILES: files}, has_origin=False)
    return resolve.choose(WheelRequest(Target("linux-64", "3.9.2"), ("hello-world",), index_url=INDEX), mirrors)


@pytest.mark.parametrize(
    "bad",
    [status(403), status(404), status(429), status(500), html(), stalled(after=10), silent(), reset()],
    ids=lambda answer: f"{answer.kind}-{answer.number:g}",
)
def test_the_next_index_is_asked(pair: tuple[MirrorSimulator, MirrorSimulator], bad: Answer) -> None:
    first, second = pair
    first.answer("simple/*", then=bad)
    found = choose(f"{first.url}simple/", f"{second.url}simple/")
    assert [each.url for each in found] == [f"{FILES}hello_world-1.0-py3-none-any.whl"]
    assert first.requests


def test_an_index_that_is_not_there(pair: tuple[MirrorSimulator, MirrorSimulator]) -> None:
    assert choose(f"{closed_port_url()}simple/", f"{pair[1].url}simple/")


def test_every_index_is_listed_when_none_answers(pair: tuple[MirrorSimulator, MirrorSimulator]) -> None:
    for each in pair:
        each.answer("simple/*", then=status(500))
    with pytest.raises(SolveError) as caught:
        choose(*(f"{each.url}simple/" for each in pair))
    assert all(each.url in caught.value.message for each in pair)


def test_what_nothing_satisfies_is_no_reason_to_ask_another(pair: tuple[MirrorSimulator, MirrorSimulator]) -> None:
    first, second = pair
    mirrors = Mirrors({INDEX: (f"{first.url}simple/", f"{second.url}simple/")}, has_origin=False)
    with pytest.raises(SolveError, match="hello-world"):
        resolve.choose(WheelRequest(Target("linux-64", "3.9.2"), ("hello-world>=9",), index_url=INDEX), mirrors)
    assert not second.requests


def test_presets_stand_for_the_public_index_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/config.toml").write_text('[mirrors]\nuse = ["tuna", "ustc"]\n')
    tuna, ustc = ("https://pypi.tuna.tsinghua.edu.cn/simple/", "https://mirrors.ustc.edu.cn/pypi/simple/")
    assert pip_index.index_candidates(None, Mirrors()) == (tuna, ustc, None)
    assert pip_index.index_candidates(None, Mirrors(has_origin=False)) == (tuna, ustc)
    assert pip_index.index_candidates("https://company.example/simple", Mirrors()) == (
        "https://company.example/simple",
    )
    monkeypatch.setenv("PIP_INDEX_URL", "https://company.example/simple")
    assert pip_index.index_candidates(None, Mirrors()) == (None,)
    monkeypatch.setenv("PIP_INDEX_URL", ustc)
    assert pip_index.index_candidates(None, Mirrors()) == (None, tuna)
    assert pip_index.index_of_machine() == ustc
