"""Directories for the moment: gone when the work is done, and when somebody was killed over it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from envtool.scratch import scratch_directory

HOLDER = "from envtool.scratch import scratch_directory as s\nwith s() as d: print(d, flush=True); input()"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_only_what_nobody_holds_is_removed(place: Path) -> None:
    argv = [sys.executable, "-c", HOLDER]
    holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    held = Path(holder.stdout.readline().strip())
    (held / "file").touch()
    foreign = place / "envtool-notes"
    foreign.mkdir()
    for each in (held, foreign):
        os.utime(each, (0, 0))
    with scratch_directory() as ours:
        assert held.is_dir()
    assert not ours.exists()
    holder.kill()
    holder.wait()
    with scratch_directory():
        assert not held.exists()
    assert list(place.iterdir()) == [foreign]
    holder.stdout.close()


def test_one_that_was_just_made_may_be_about_to_be_locked(place: Path) -> None:
    young = place / "envtool-scratch-young"
    young.mkdir()
    with scratch_directory():
        pass
    assert young.is_dir()
