"""What is written whole or not at all, and what is no file to replace."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from envtool.atomic_files import write_atomically
from serve.durable_files import replace_file

WRITERS = [write_atomically, replace_file]


@pytest.mark.parametrize("write", WRITERS)
def test_a_pipe_and_a_device_stay_what_they_are(write: Callable[[Path, bytes], None], tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write(pipe, b"text")
    reader.join(10)
    assert found == [b"text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device")
    write(device, b"text")
    assert device.is_char_device()


@pytest.mark.parametrize("write", WRITERS)
def test_a_failure_leaves_the_old_content(
    write: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["n" * 199, "n" * 200, "n" * 245, "n" * 255, "漢" * 85, "ü" * 127 + "x"])
def test_every_name_that_the_file_system_takes_can_be_written(
    write: Callable[[Path, bytes], None], name: str, tmp_path: Path
) -> None:
    for content in (b"old", b"new"):
        write(tmp_path / name, content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"new")]
