"""The environments that tests share outlive the clone that made them; the Python that they link to may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.environments import make_environment


def test_an_environment_whose_python_is_gone_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    python = make_environment([])
    made = python.lstat().st_ino
    assert make_environment([]) == python
    assert python.lstat().st_ino == made
    python.unlink()
    python.symlink_to(tmp_path / "a removed clone" / "bin" / "python")
    assert make_environment([]).exists()
