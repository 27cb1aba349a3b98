"""Our hash of the sources is the one that conda-lock computes when it reads the same files by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from envtool.solve.content_hash import content_hashes, remembered_hashes, virtual_package_specification
from envtool.solve.lock import with_virtual_packages
from envtool.spec.environment import read_spec

THEIRS = """\
import json, pathlib, sys
from conda_lock.content_hash import compute_content_hashes
from conda_lock.src_parser import make_lock_spec
from conda_lock.virtual_package import virtual_package_repo_from_specification
paths = [pathlib.Path(each) for each in sys.argv[1:]]
spec = make_lock_spec(src_files=paths, mapping_url=pathlib.Path("lookup.json").resolve().as_uri())
repodata = virtual_package_repo_from_specification(pathlib.Path("virtual.json"))
print(json.dumps(compute_content_hashes(spec, repodata)))
"""
BASE = """\
channels: [pytorch, conda-forge, nodefaults]
platforms: [linux-64, osx-arm64]
dependencies:
  - python=3.9
  - NumPy >=1.20, <2   # a comment
  - pytorch::pytorch=2.3.0=py3.9_*  # [linux]
  - zlib
"""
VIRTUAL = 'virtual-packages:\n  linux-64:\n    __cuda: "12.1"\n    __glibc: "2.31"\n'
DEV = """\
category: dev
channels: [conda-forge]
platforms: [linux-64, osx-arm64]
dependencies:
  - pytest
  - zlib=1.3
"""
GIT = "  - pip:\n      - six @ git+https://h.example/six.git@1.16#subdirectory=a\n"
PIP = "  - pip:\n      - six>=1.16\n      - flask[async]; sys_platform == 'linux'\n"


@pytest.mark.parametrize(
    "files",
    [
        [BASE],
        [BASE + VIRTUAL],
        [BASE, DEV],
        [BASE + PIP],
        [BASE + PIP, DEV + "  - pip:\n      - build\n"],
        [BASE + GIT],
    ],
    ids=["plain", "declared", "two files", "wheels", "wheels in two files", "a repository"],
)
def test_our_hash_is_theirs(files: list[str], tmp_path: Path) -> None:
    paths = [tmp_path / f"environment{number}.yml" for number in range(len(files))]
    for path, text in zip(paths, files):
        path.write_text(text)
    spec = read_spec(paths)
    declared = {each.platform: each.virtual_packages for each in with_virtual_packages(spec).platforms}
    (tmp_path / "lookup.json").write_text("{}")
    (tmp_path / "virtual.json").write_text(json.dumps(virtual_package_specification(declared)))
    done = subprocess.run(
        [sys.executable, "-c", THEIRS, *(str(each) for each in paths)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert content_hashes(spec, declared) == json.loads(done.stdout)


def test_what_conda_lock_cannot_read_is_flattened_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "more.txt").write_text("six\n")
    (tmp_path / "environment.yml").write_text(BASE + "  - pip:\n      - -r more.txt\n      - --pre\n")
    hashes = content_hashes(read_spec([tmp_path / "environment.yml"]), {"linux-64": {}, "osx-arm64": {}})
    assert set(hashes) == {"linux-64", "osx-arm64"}
    (tmp_path / "more.txt").write_text("six>=1.16\n")
    again = content_hashes(read_spec([tmp_path / "environment.yml"]), {"linux-64": {}, "osx-arm64": {}})
    assert all(hashes[each] != again[each] for each in hashes)
    assert "warning" not in capsys.readouterr().err


def test_nothing_of_conda_lock_stays_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from envtool.solve.content_hash import content_hashes\n"
        "from envtool.spec.environment import read_spec\n"
        "content_hashes(read_spec([Path('environment.yml')]), {'linux-64': {}, 'osx-arm64': {}})\n"
        "print([each for each in sys.modules if each.startswith('conda_lock')])\n"
        "import conda_lock; print(conda_lock.__file__ is not None)"
    )
    (tmp_path / "environment.yml").write_text(BASE)
    root = str(Path(__file__).parents[3])
    environment = {"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["[]", "True"], done.stderr


def test_a_hash_is_remembered_for_the_very_same_sources(tmp_path: Path) -> None:
    source, kept = tmp_path / "environment.yml", tmp_path / "kept"
    source.write_text(BASE)
    spec = read_spec([source])
    declared = {each.platform: each.virtual_packages for each in with_virtual_packages(spec).platforms}
    assert remembered_hashes(spec, declared, kept) == content_hashes(spec, declared)
    answer = next(kept.iterdir())
    answer.write_text(json.dumps(dict.fromkeys(declared, "remembered")))
    assert set(remembered_hashes(spec, declared, kept).values()) == {"remembered"}
    answer.write_text("{")
    assert remembered_hashes(spec, declared, kept) == content_hashes(spec, declared)
    source.write_text(BASE + "  - xz\n")
    assert remembered_hashes(read_spec([source]), declared, kept) == content_hashes(read_spec([source]), declared)
    other = {**declared, "linux-64": {**declared["linux-64"], "__glibc": "2.35"}}
    assert remembered_hashes(spec, other, kept) == content_hashes(spec, other)


def test_conda_lock_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "environment.yml").write_text(BASE)
    spec = read_spec([tmp_path / "environment.yml"])
    content_hashes(spec, {"linux-64": {}, "osx-arm64": {}})
    content_hashes(spec, None)
    assert list((tmp_path / "scratch").iterdir()) == []
