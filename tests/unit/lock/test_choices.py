from __future__ import annotations

from datetime import datetime, timezone

import pytest

from envtool.errors import EnvtoolError, SolveError
from envtool.fetch import credentials
from envtool.lockfile.model import LockedPackage
from envtool.lockfile.pylock import format_pylock, parse_pylock
from envtool.mirrors import pip_index
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import resolve
from envtool.pypi.resolve import Target
from envtool.solve import content_hash
from envtool.solve.lock import _dependencies
from envtool.spec.version_policy import cutoff

NOW = datetime(2026, 7, 10, 12, 0, tzinfo=timezone.utc)
HASH_PATH = "/packages/10/cb/" + "f" * 60 + "/blinker-1.9.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", "2026-07-03T12:00:00+00:00"),
        ("7 days", "2026-07-03T12:00:00+00:00"),
        ("1d", "2026-07-09T12:00:00+00:00"),
        ("P7D", "2026-07-03T12:00:00+00:00"),
        ("P1W", "2026-07-03T12:00:00+00:00"),
        ("PT36H", "2026-07-09T00:00:00+00:00"),
        ("1w", "2026-07-03T12:00:00+00:00"),
        ("1 week", "2026-07-03T12:00:00+00:00"),
        ("1 week 2 days", "2026-07-01T12:00:00+00:00"),
        ("36h", "2026-07-09T00:00:00+00:00"),
        ("2026-01-31", "2026-01-31T23:59:59.999999+00:00"),
        ("2026-01-31T08:00:00", "2026-01-31T08:00:00+00:00"),
        ("2026-01-31T08:00:00+08:00", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00+00:00"),
    ],
)
def test_cutoff(text: str, expected: str) -> None:
    assert cutoff(text, NOW, "here").isoformat() == expected


@pytest.mark.parametrize("text", ["yesterday", "", "-3", "2026-02-30", "P", "P1Y", "PT", "1 month", "7 dayz", "w"])
def test_a_cutoff_that_is_none(text: str) -> None:
    with pytest.raises(EnvtoolError, match=r"here: .* is neither a date nor a duration"):
        cutoff(text, NOW, "here")


def test_credentials_are_put_in_only_when_a_url_is_used() -> None:
    url = "https://$USER_X:${TOKEN_X}@h.example/t/$T/c"
    assert credentials.variables_of(url) == ("USER_X", "TOKEN_X", "T")
    values = {"USER_X": "me", "TOKEN_X": "s3", "T": "tk"}
    assert credentials.expand(url, values) == "https://me:s3@h.example/t/tk/c"
    assert credentials.strip(credentials.expand(url, values)) == "https://h.example/c"
    with pytest.raises(EnvtoolError, match="needs the variable T, which is not set"):
        credentials.expand(url, {"USER_X": "me", "TOKEN_X": "s3"})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h.example/c", False),
        ("https://$U:$P@h.example/c", False),
        ("https://h.example/t/$T/c", False),
        ("https://me:$P@h.example/c", True),
        ("https://token@h.example/c", True),
        ("https://h.example/t/tk-123/c", True),
        ("conda-forge", False),
    ],
)
def test_literal_credentials_are_seen(url: str, expected: bool) -> None:
    assert credentials.is_literal(url) is expected


def test_the_urls_of_a_full_mirror_of_the_index_become_canonical() -> None:
    canonical = pip_index.canonical("https://mirror.example.org/pypi/web" + HASH_PATH, Mirrors())
    assert canonical.endswith(HASH_PATH)
    assert "mirror.example.org" not in canonical
    assert pip_index.canonical(canonical, Mirrors()) == canonical


def test_the_urls_of_a_private_index_stay_and_lose_their_credentials() -> None:
    url = "https://me:secret@pkgs.example.org/files/own-1.0-py3-none-any.whl?token=x#sha256=abc"
    assert pip_index.canonical(url, Mirrors()) == "https://pkgs.example.org/files/own-1.0-py3-none-any.whl"


def test_a_mirror_that_is_configured_is_replaced_by_what_it_stands_for() -> None:
    mirrors = Mirrors({"https://files.example.org/": ("http://10.0.0.1/files/",)})
    assert pip_index.canonical("http://10.0.0.1/files/a/x-1-py3-none-any.whl", mirrors).startswith(
        "https://files.example.org/a/"
    )


@pytest.mark.parametrize(
    ("platform", "glibc", "expected"),
    [
        ("linux-64", "2.28", "x86_64-manylinux_2_28"),
        ("linux-64", "2.30", "x86_64-manylinux_2_28"),
        ("linux-64", "2.12", "x86_64-manylinux_2_17"),
        ("linux-aarch64", None, "aarch64-manylinux_2_28"),
        ("osx-arm64", None, "aarch64-apple-darwin"),
        ("win-64", None, "x86_64-pc-windows-msvc"),
    ],
)
def test_targets_as_uv_names_them(platform: str, glibc: str | None, expected: str) -> None:
    assert Target(platform, "3.9.2", glibc).uv_platform == expected


def test_reasons_of_uv() -> None:
    text = """\
blinker==1.9.0            # via flask
click==8.1.8              # via -r requirements.in, flask
importlib-metadata==8.7.1 ; python_version < '3.10'  # via flask
own @ https://h.example/own-1.0-py3-none-any.whl  # via -r requirements.in
zipp==3.23.1              # via importlib-metadata
"""
    assert resolve.parse_reasons(text) == {
        "flask": ("blinker", "click", "importlib-metadata"),
        "importlib-metadata": ("zipp",),
    }


def test_pylock_there_and_back() -> None:
    first = LockedPackage("pip", "a", "1.0", "", "https://h.example/a-1.0-py3-none-any.whl", "0" * 64, size_bytes=12)
    second = LockedPackage("pip", "b", "2", "", "https://h.example/b-2-py3-none-any.whl", "1" * 64)
    assert parse_pylock(format_pylock([second, first], "==3.9.*")) == [first, second]
    unproven = LockedPackage("pip", "c", "3", "", "https://h.example/c-3-py3-none-any.whl", None)
    assert [each.sha256 for each in parse_pylock(format_pylock([unproven]))] == [""]


def test_a_wheel_given_by_its_url_has_the_version_of_its_name() -> None:
    archive = '{ url = "https://h.example/own-1.2-py3-none-any.whl", hashes = { sha256 = "00" } }'
    assert parse_pylock(f'[[packages]]\nname = "own"\narchive = {archive}\n')[0].version == "1.2"


def test_a_package_without_a_wheel_is_refused() -> None:
    with pytest.raises(SolveError, match="own has no wheel with a sha256"):
        parse_pylock(
            '[[packages]]\nname = "own"\nvcs = { type = "git", url = "https://h.example/own", commit-id = "00" }\n'
        )


@pytest.mark.parametrize(
    ("depends", "expected"),
    [
        (["python >=3.9", "python"], {"python": ">=3.9"}),
        (["python >=3.9", "python <3.10"], {"python": ">=3.9,<3.10"}),
        (["python >=3.9", "python 3.9.* *_cp39"], {"python": "3.9.* *_cp39"}),
        (["python 3.9.* *_cp39", "python >=3.9"], {"python": "3.9.* *_cp39"}),
        (["__glibc >=2.17"], {"__glibc": ">=2.17"}),
    ],
)
def test_dependencies_that_a_record_names_twice(depends: list[str], expected: dict[str, str]) -> None:
    assert _dependencies(depends) == expected


def test_virtual_packages_that_are_declared_win_over_those_assumed() -> None:
    assert content_hash.declared_virtual_packages("linux-64", {"__glibc": "2.31", "__cuda": "12.1"}) == {
        "__archspec": "1 x86_64", "__cuda": "12.1", "__glibc": "2.31", "__linux": "5.10", "__unix": "0",
    }  # fmt: skip
    assert "__cuda" not in content_hash.declared_virtual_packages("linux-64", {})
    assert content_hash.declared_virtual_packages("osx-arm64", {})["__osx"] == "11.0"
