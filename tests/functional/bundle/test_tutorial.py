"""The tutorial does what it shows, command by command, in both languages, from an empty home."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.channel.conftest import shared_channel
from tests.support.repodata_server import serving, variable

ROOT = Path(__file__).parents[3]
PAGE = "tutorial/first-environment.md"


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands of a page, each with the lines that it shows of their output."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for command in re.split(r"(?m)^\$ ", block)[1:]:
            lines = command.rstrip("\n").split("\n")
            end = lines.index("EOF") + 1 if lines[0].endswith("'EOF'") else 1
            yield "\n".join(lines[:end]), lines[end:]


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path, which is longer than the path of an environment may be.
    with tempfile.TemporaryDirectory(prefix="envtool-") as directory:
        yield Path(directory).resolve()


def test_both_languages_have_the_same_commands() -> None:
    assert list(commands(ROOT / "docs" / PAGE)) == list(commands(ROOT / "docs/zh" / PAGE))


def test_the_page_works_to_its_last_line(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    _, channel = shared_channel(tmp_path_factory)
    programs = home / "programs"
    programs.mkdir()
    (programs / "envtool").write_text(f'#!/bin/sh\nexec {sys.executable} -m envtool "$@"\n')
    (programs / "envtool").chmod(0o755)
    (programs / "python3.9").symlink_to(home / ".envtool/envs/first/bin/python3.9")  # as bare as any other
    (home / "conda-forge").symlink_to(channel.path)
    seen = 0
    with serving(home) as base:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ENVTOOL_", "PYTHON"))},
            "HOME": str(home),
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "ENVTOOL_MIRRORS": variable(base, ["conda-forge"]),
            "NO_COLOR": "1",
        }
        for command, shown in commands(ROOT / "docs" / PAGE):
            done = subprocess.run(
                ["bash", "-c", command], cwd=home, env=env, text=True, stdout=-1, stderr=subprocess.STDOUT, timeout=300
            )
            assert done.returncode == 0, (command, done.stdout)
            for part in (part for line in shown for part in line.split("…") if part.strip()):
                assert part.strip() in done.stdout, (command, part, done.stdout)
            seen += 1
    assert seen == 17
