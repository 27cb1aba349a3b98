"""The tutorial does what it shows, command by command, from an empty home and on the oldest and the newest Python."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.channel.conftest import shared_channel
from tests.support.pages import ROOT, Terminal
from tests.support.pythons import bare_environment, build_wheel, find_python, install
from tests.support.repodata_server import serving, variable

PAGE = "tutorial/first-environment.md"


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path, which is longer than the path of an environment may be.
    with tempfile.TemporaryDirectory(prefix="envtool-") as directory:
        yield Path(directory).resolve()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def oldest_or_newest(version: str) -> Path:
    """A Python of this version; in the place of the newest the one that runs the tests, where there is none."""
    try:
        return find_python(version)
    except pytest.skip.Exception:
        if version == "3.9":
            raise
        return Path(sys.executable)


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_the_page_works_to_its_last_line(
    home: Path, wheel: Path, version: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    programs = install(oldest_or_newest(version), tmp_path / "tools", f"envserve[envtool] @ {wheel.as_uri()}")
    _, channel = shared_channel(tmp_path_factory)
    (programs / "python3.9").unlink(missing_ok=True)
    (programs / "python3.9").symlink_to(home / ".envtool/envs/first/bin/python3.9")  # as bare as any other
    (home / "conda-forge").symlink_to(channel.path)
    with serving(home) as base:
        env = {**bare_environment(home, programs), "ENVTOOL_MIRRORS": variable(base, ["conda-forge"])}
        with Terminal(home, env) as terminal:
            assert len(terminal.follow(ROOT / "docs" / PAGE)) > 10
