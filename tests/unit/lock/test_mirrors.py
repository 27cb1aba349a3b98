from __future__ import annotations

from pathlib import Path

import pytest

from envtool.errors import EnvtoolError, InvalidFileError
from envtool.mirrors import mirrors
from envtool.mirrors.mirrors import Mirrors

FORGE = "https://conda.anaconda.org/conda-forge/"
ARCHIVE = "linux-64/numpy-1.26.4-py39h474f0d3_0.conda"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENVTOOL_HOME", str(tmp_path))
    monkeypatch.delenv(mirrors.VARIABLE, raising=False)
    return tmp_path


def test_without_configuration_a_url_is_only_itself() -> None:
    assert mirrors.configured().for_url(FORGE + ARCHIVE) == (FORGE + ARCHIVE,)
    assert mirrors.configured().canonical(FORGE + ARCHIVE) == FORGE + ARCHIVE


def test_mirrors_come_first_and_the_canonical_url_last() -> None:
    known = Mirrors({FORGE: ("https://a.example/cf/", "http://127.0.0.1:81/")})
    expected = ("https://a.example/cf/" + ARCHIVE, "http://127.0.0.1:81/" + ARCHIVE, FORGE + ARCHIVE)
    assert known.for_url(FORGE + ARCHIVE) == expected
    assert {known.canonical(url) for url in expected} == {FORGE + ARCHIVE}


def test_the_longest_prefix_wins() -> None:
    known = Mirrors({"https://c.example/": ("https://all.example/",), "https://c.example/a/": ("https://a.example/",)})
    assert known.for_url("https://c.example/a/x")[0] == "https://a.example/x"
    assert known.for_url("https://c.example/b/x")[0] == "https://all.example/b/x"


def test_a_key_does_not_capture_the_channel_that_starts_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mirrors.VARIABLE, "https://conda.anaconda.org/pytorch=http://m.example/pytorch")
    known = mirrors.configured()
    assert known.for_url("https://conda.anaconda.org/pytorch/x")[0] == "http://m.example/pytorch/x"
    assert len(known.for_url("https://conda.anaconda.org/pytorch-lts/x")) == 1


def test_the_variable_goes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config.toml").write_text(f'[mirrors]\n"{FORGE}" = ["https://file.example", "http://var.example/"]\n')
    monkeypatch.setenv(mirrors.VARIABLE, f"{FORGE}=http://var.example/ https://other.example/=http://m.example/")
    assert mirrors.configured().by_prefix == {
        FORGE: ("http://var.example/", "https://file.example/"),
        "https://other.example/": ("http://m.example/",),
    }


def test_every_issue_of_the_file_is_named_at_once(home: Path) -> None:
    (home / "config.toml").write_text(
        '[mirrors]\n"conda-forge" = ["https://m.example/"]\n"https://a.b/" = ["ftp://x/", 1]\n"https://c.d/" = ["ftp://x/"]\n'
    )
    with pytest.raises(InvalidFileError) as caught:
        mirrors.configured()
    assert [issue.place.partition(": ")[2] for issue in caught.value.issues] == [
        'mirrors."conda-forge"',
        'mirrors."https://a.b/"',
        'mirrors."https://c.d/"[0]',
    ]


def test_a_broken_file_is_a_known_error(home: Path) -> None:
    (home / "config.toml").write_text("[mirrors\n")
    with pytest.raises(InvalidFileError, match="not TOML"):
        mirrors.configured()


def test_a_bad_variable_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mirrors.VARIABLE, "https://me:secret@a.example/")
    with pytest.raises(EnvtoolError) as caught:
        mirrors.configured()
    assert mirrors.VARIABLE in caught.value.message
    assert "secret" not in caught.value.message
