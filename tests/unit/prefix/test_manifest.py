from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from envtool.artifacts.file_manifest import FileManifests
from envtool.errors import ArchiveError

SITE = "lib/python3.9/site-packages"


def test_a_wheel_of_many_files_is_read_whole_every_time(tmp_path: Path) -> None:
    # Many, and again and again: threads that shared one archive disagreed about its positions now and then.
    contents = {f"package/{i}.py": bytes([i % 251]) * (i * 37 % 5000) for i in range(400)}
    wheel = tmp_path / "package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    expected = {f"{SITE}/{name}": hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    for attempt in range(5):
        manifests = FileManifests(tmp_path / str(attempt))
        manifests.keep("0" * 64, "pip", wheel)
        declared = manifests.brought("0" * 64, ("pip", "package"), SITE).files
        assert {path: file.sha256 for path, file in declared.items()} == expected


def test_what_is_no_wheel_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x-1.0-py3-none-any.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(ArchiveError, match=r"x-1\.0-py3-none-any\.whl is not a valid wheel"):
        FileManifests(tmp_path).keep("0" * 64, "pip", path)
