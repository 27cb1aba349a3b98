"""A real conda reads the .condarc that `envtool mirror use` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.prefix.conftest import User, user
from tests.support.real_conda import Conda, find_conda

__all__ = ["user"]  # a fixture

CONDARC = """\
# kept as it is
channels: [conda-forge, pytorch, nvidia, defaults]
channel_priority: strict
custom_channels:
  ours: https://conda.example
a_key_that_no_conda_knows: kept
"""
TUNA = "https://mirrors.tuna.tsinghua.edu.cn/anaconda"


@pytest.fixture
def conda(user: User) -> Conda:
    (user.home / ".condarc").write_text(CONDARC)
    return find_conda(user.home)


def channels(conda: Conda) -> list[str]:
    """What conda would ask, in its order."""
    return [channel.rpartition("/")[0] for channel in conda.json("info")["channels"] if channel.endswith("/linux-64")]


def test_conda_asks_the_mirror_for_the_channels_that_it_has(user: User, conda: Conda) -> None:
    before = channels(conda)
    assert before[:3] == [f"https://conda.anaconda.org/{name}" for name in ("conda-forge", "pytorch", "nvidia")]
    user.run("mirror", "use", "tuna", "--conda")
    assert channels(conda) == [
        f"{TUNA}/cloud/conda-forge",
        f"{TUNA}/cloud/pytorch",
        "https://conda.anaconda.org/nvidia",  # not at this mirror
        *(f"{TUNA}/pkgs/{name}" for name in ("main", "r", "msys2")),
    ]
    user.run("mirror", "use", "sustech", "--conda")
    assert channels(conda)[:2] == before[:2]
    assert channels(conda)[2] == "https://mirrors.sustech.edu.cn/anaconda-extra/cloud/nvidia"
    user.run("mirror", "use", "off", "--conda")
    assert channels(conda) == before


def test_what_else_stands_in_the_file_stays_what_it_is_to_conda(user: User, conda: Conda) -> None:
    path = str(user.home / ".condarc")
    (before,) = sources(conda, path)
    user.run("mirror", "use", "tuna", "--conda")
    (after,) = sources(conda, path)
    ours = {"conda-forge": f"{TUNA}/cloud", "pytorch": f"{TUNA}/cloud"}
    assert after.pop("custom_channels") == {**before.pop("custom_channels"), **ours}
    assert after.pop("default_channels") == [f"{TUNA}/pkgs/{name}" for name in ("main", "r", "msys2")]
    assert after == before
    assert "a_key_that_no_conda_knows: kept" in Path(path).read_text()
    assert conda.json("config", "--show", "channel_priority") == {"channel_priority": "strict"}
    user.run("mirror", "use", "--undo")
    assert Path(path).read_text() == CONDARC


def sources(conda: Conda, path: str) -> list[dict[str, object]]:
    """What conda says that it read from a file."""
    return [content for name, content in conda.json("config", "--show-sources").items() if name == path]
