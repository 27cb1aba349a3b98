"""Code and settings as a part of a release: copied, named by their content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from envtool.deploy import release_directory
from envtool.deploy.release_directory import Release, ReleaseDirectory
from envtool.errors import DeployError


@pytest.fixture
def root(tmp_path: Path) -> ReleaseDirectory:
    found = ReleaseDirectory(tmp_path / "srv")
    found.lay_out()
    return found


def write(root: ReleaseDirectory, name: str, text: str) -> Path:
    path = root.path / "app" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_copy_that_no_edit_reaches(root: ReleaseDirectory) -> None:
    original = write(root, "pkg/model.py", "one")
    write(root, "__pycache__/model.pyc", "made")
    (root.path / "app/weights").symlink_to("../checkpoints")
    digest = release_directory.take(root, None)
    assert digest is not None
    copy = root.application(digest)
    original.write_text("two")
    assert (copy / "pkg/model.py").read_text() == "one"
    assert not (copy / "pkg/model.py").stat().st_mode & 0o222
    # What is beside app/ is beside the copy.
    assert (copy / "weights").resolve() == root.path / "checkpoints"
    assert not (copy / "__pycache__").exists()
    assert release_directory.take(root, None) != digest
    original.write_text("one")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__/model.pyc").write_text("made by a server")
    assert release_directory.take(root, None) == digest
    assert (copy / "__pycache__").exists()  # left as it was
    assert len(root.applications()) == 2


def test_modes_and_names_count(root: ReleaseDirectory) -> None:
    path = write(root, "run", "x")
    first = release_directory.take(root, None)
    path.chmod(0o755)
    second = release_directory.take(root, None)
    path.rename(path.with_name("other"))
    assert len({first, second, release_directory.take(root, None)}) == 3


def test_a_copy_that_was_edited_is_made_anew(root: ReleaseDirectory) -> None:
    write(root, "model.py", "one")
    digest = release_directory.take(root, None)
    copy = root.application(digest or "")
    (copy / "model.py").unlink()
    (copy / "model.py").write_text("edited")
    assert release_directory.take(root, None) == digest
    assert (copy / "model.py").read_text() == "one"
    assert [path.name for path in root.path.glob(".app*")] == []


def test_what_a_killed_copy_left_is_in_nobodys_way(root: ReleaseDirectory) -> None:
    for name in (".app.tmp", ".app.old.tmp"):
        (root.path / name).mkdir()
        (root.path / name / "half").write_text("half")
    write(root, "model.py", "one")
    copy = root.application(release_directory.take(root, None) or "")
    assert [path.name for path in copy.iterdir()] == ["model.py"]
    (copy / "model.py").unlink()
    release_directory.take(root, None)
    assert list(root.path.glob(".app*")) == []


def test_none_and_what_cannot_be_copied(root: ReleaseDirectory, tmp_path: Path) -> None:
    assert release_directory.take(root, None) is None
    with pytest.raises(DeployError, match="cannot be copied"):
        release_directory.take(root, tmp_path / "nowhere")
    write(root, "x", "x")
    os.mkfifo(root.path / "app/pipe")
    with pytest.raises(DeployError, match="pipe"):
        release_directory.take(root, None)


def test_those_that_no_release_has_are_removed(root: ReleaseDirectory) -> None:
    path = write(root, "x", "one")
    kept = release_directory.take(root, None)
    path.write_text("two")
    release_directory.take(root, None)
    (root.path / "app-notes").mkdir()
    root.add(Release("e", kept, "lock", 1, "now"), "")
    release_directory.clean(root)
    assert sorted(each.name for each in root.path.glob("app-*")) == sorted(
        [root.application(kept or "").name, "app-notes"]
    )


def test_a_release_is_named_by_all_that_it_holds() -> None:
    releases = [Release(*each, "lock", 1, "now") for each in (("e", None), ("e", "a"), ("e", "b"), ("f", "a"))]
    assert len({release.digest for release in releases}) == 4
    assert Release("e", "a", "other", 2, "then").digest == releases[1].digest
