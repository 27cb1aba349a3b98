"""The `pip:` section against the real package index; one lock serves several tests."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage, read_lockfile

ENVIRONMENT = """\
name: demo
channels: [conda-forge]
platforms: [linux-64, osx-arm64]
dependencies:
  - python=3.9
  - numpy=1.26
  - pip=25.2
  - pip:
      - flask[async]>=3,<3.1
      - importlib-metadata; python_version < "3.10"
      - pywin32; sys_platform == "win32"
      - -r more.txt
"""
_locked: dict[str, str] = {}

pytestmark = pytest.mark.network


@pytest.fixture
def locked(envtool, write, tmp_path: Path) -> dict[tuple[str, str], LockedPackage]:
    write(ENVIRONMENT)
    write("safetensors==0.4.5\n-c bounds.txt\n", "more.txt")
    write("click<8.1.8\n", "bounds.txt")
    if ENVIRONMENT not in _locked:
        answer = envtool("lock")
        if "the package index cannot be reached" in answer.stderr:
            pytest.skip(f"{socket.gethostname()} reaches no package index")
        assert answer.returncode == 0, answer.stderr
        _locked[ENVIRONMENT] = (tmp_path / "conda-lock.yml").read_text()
    write(_locked[ENVIRONMENT], "conda-lock.yml")
    lockfile = read_lockfile(tmp_path / "conda-lock.yml")
    return {(package.name, package.platform): package for package in lockfile.packages}


def test_extras_markers_files_and_bounds(locked) -> None:
    assert locked["asgiref", "linux-64"].manager == "pip"
    assert locked["flask", "linux-64"].version == "3.0.3"
    assert ("importlib-metadata", "linux-64") in locked
    assert ("pywin32", "linux-64") not in locked
    assert locked["click", "linux-64"].version == "8.1.7"


def test_each_platform_has_its_own_wheels(locked) -> None:
    assert "manylinux" in locked["safetensors", "linux-64"].url
    assert "macosx" in locked["safetensors", "osx-arm64"].url


def test_what_conda_brings_is_not_chosen_again_and_the_pin_of_pip_is_kept(locked) -> None:
    assert locked["numpy", "linux-64"].manager == "conda"
    assert (locked["pip", "linux-64"].manager, locked["pip", "linux-64"].version) == ("conda", "25.2")


def test_wheels_say_what_they_need(locked) -> None:
    assert set(locked["flask", "linux-64"].dependencies) >= {"asgiref", "blinker", "click", "werkzeug"}


def test_the_wheels_urls_are_the_indexs_own(locked) -> None:
    urls = [each.url for each in locked.values() if each.manager == "pip"]
    assert all(url.startswith("https://") and "/packages/" in url for url in urls)


def test_check_sees_a_line_in_a_requirements_file(envtool, write, locked) -> None:
    assert envtool("lock", "--check").returncode == 0
    write("safetensors==0.4.4\n-c bounds.txt\n", "more.txt")
    answer = envtool("lock", "--check")
    assert answer.returncode == 1
    assert "more.txt:1: pip dependency changed: safetensors==0.4.5 → safetensors==0.4.4" in answer.stdout


def test_update_moves_one_wheel(envtool, write, tmp_path: Path, locked) -> None:
    write("", "bounds.txt")
    answer = envtool("lock", "--update", "click")
    assert answer.returncode == 0, answer.stderr
    new = {(package.name, package.platform): package for package in read_lockfile(tmp_path / "conda-lock.yml").packages}
    assert new.keys() == locked.keys()
    assert {name for name, platform in new if new[name, platform].url != locked[name, platform].url} == {"click"}


def test_a_request_that_no_wheel_satisfies(envtool, write, locked) -> None:
    write("safetensors==99\n", "more.txt")
    answer = envtool("lock")
    assert answer.returncode == 3
    assert "linux-64: the pip section cannot be satisfied" in answer.stderr
    assert "safetensors==99" in answer.stderr
