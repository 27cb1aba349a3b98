from __future__ import annotations

from pathlib import Path

import pytest

from envtool.errors import InvalidFileError, MissingFileError
from envtool.mirrors import mirrors as mirror_presets
from envtool.mirrors.mirrors import Preset, channel_of, is_wheel_store, presets, select

FORGE = "https://conda.anaconda.org/conda-forge/"
WHEEL = f"https://files.example/packages/ab/cd/{'e' * 60}/torch-2.0-cp39-none-any.whl"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENVTOOL_HOME", str(tmp_path))
    return tmp_path


def test_ours_are_sound() -> None:
    known = presets()
    assert set(known) == {"tuna", "ustc", "sjtu", "bfsu", "nju", "sustech"}
    for each in known.values():
        assert each.channels, each.name
        for origin, url in each.channels.items():
            assert origin.endswith("/")
            assert url.endswith(f"/{origin.rstrip('/').rpartition('/')[2]}/"), "the mirror's channel has the same name"
    assert [each.name for each in known.values() if "https://conda.anaconda.org/nvidia/" in each.channels] == [
        "sustech"
    ]


@pytest.mark.parametrize(
    ("url", "channel"),
    [
        (f"{FORGE}linux-64/numpy-1.conda", FORGE),
        ("https://h.example/t/tok/c/noarch/a-1-0.conda#md5", "https://h.example/t/tok/c/"),
        (WHEEL, "https://files.example/packages/"),
        ("https://index.example/simple/torch/torch-2.0-cp39-none-any.whl", "https://index.example/simple/"),
    ],
)
def test_the_channel_of_a_url(url: str, channel: str) -> None:
    assert channel_of(url) == channel
    assert is_wheel_store(channel) == (url == WHEEL)


@pytest.mark.parametrize(
    ("pypi", "store"),
    [
        ("https://m.example/pypi/web/simple", "https://m.example/pypi/web/packages/"),
        ("https://m.example/simple/", "https://m.example/packages/"),
        ("https://m.example/index", None),
        (None, None),
    ],
)
def test_the_store_of_a_package_index(pypi: str | None, store: str | None) -> None:
    assert Preset("m", "M", {}, pypi).mirror_of("https://files.example/packages/") == store


def test_users_add_their_own_and_replace_ours(home: Path) -> None:
    (home / "config.toml").write_text(
        f'[presets.corp.channels]\n"{FORGE}" = "https://${{USER}}:${{PASSWORD}}@m.example/cf"\n'
        '[presets.tuna]\ntitle = "another"\npypi = "https://m.example/simple"\n'
    )
    assert presets()["corp"].channels == {FORGE: "https://${USER}:${PASSWORD}@m.example/cf/"}
    assert presets()["tuna"] == Preset("tuna", "another", {}, "https://m.example/simple")
    assert [each.name for each in select(("corp", "sjtu"))] == ["corp", "sjtu"]


def test_every_issue_is_named_at_once(home: Path) -> None:
    (home / "config.toml").write_text(
        f'[presets.auto]\n[presets.a]\nurl = "x"\ntitle = 3\nnotes = "x"\npypi = "ftp://x"\n'
        f'[presets.b.channels]\n"{FORGE}" = "https://me:secret@m.example/"\nforge = "https://m.example/"\n'
        "[presets.c]\nchannels = 1\n"
    )
    with pytest.raises(InvalidFileError) as caught:
        presets()
    places = [issue.place.partition(": ")[2] for issue in caught.value.issues]
    assert places == [
        "presets.auto", "presets.a.url", "presets.a.title", "presets.a.notes", "presets.a.pypi",
        f'presets.b.channels."{FORGE}"', "presets.b.channels.\"forge\"", "presets.c.channels",
    ]  # fmt: skip
    assert "secret" not in caught.value.message


def test_an_unknown_name_and_a_broken_file_are_known_errors(home: Path) -> None:
    with pytest.raises(MissingFileError, match="no mirror preset 'nope'"):
        select(("nope",))
    (home / "config.toml").write_text("[presets")
    with pytest.raises(InvalidFileError, match="not TOML"):
        mirror_presets.presets()
