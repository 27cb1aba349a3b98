"""git merges two branches that each change a lock; and what is outdated or in the way, on the same lock."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import Lockfile, read_lockfile

BASE = "channels: [conda-forge]\nplatforms: [linux-64]\ndependencies:\n  - click\n  - python=3.9\n  - numpy=1.26\n"

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


class Repository:
    """A repository whose git finds envtool."""

    def __init__(self, path: Path, envtool) -> None:
        self.path = path
        self.envtool = envtool
        program = path / "bin" / "envtool"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m envtool "$@"\n')
        program.chmod(0o755)
        self.env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": os.devnull}
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "me")
        self.git("config", "user.email", "me@example.org")

    def git(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.path, env=self.env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(self, source: str, branch: str) -> Lockfile:
        self.git("checkout", "-q", "-B", branch, *(["main"] if branch != "main" else []))
        (self.path / "environment.yml").write_text(source)
        done = self.envtool("lock")
        assert done.returncode == 0, done.stderr
        self.git("add", "environment.yml", "conda-lock.yml", *([".gitattributes"] if branch == "main" else []))
        self.git("commit", "-qm", branch)
        return read_lockfile(self.path / "conda-lock.yml")


def urls(lockfile: Lockfile) -> set[str]:
    return {package.url for package in lockfile.packages}


@pytest.fixture
def repository(tmp_path: Path, envtool) -> Repository:
    found = Repository(tmp_path, envtool)
    found.git("commit", "-q", "--allow-empty", "-m", "start")
    assert envtool("merge-driver", "install").returncode == 0
    assert envtool("merge-driver", "install").returncode == 0
    assert (tmp_path / ".gitattributes").read_text() == "conda-lock.yml merge=envtool\n"
    return found


def test_two_branches_that_each_add_a_package(repository: Repository, envtool) -> None:
    base = repository.commit(BASE, "main")
    one = repository.commit(BASE.replace("  - click\n", "  - click\n  - flask\n"), "one")
    other = repository.commit(BASE + "  - pytest\n", "other")
    repository.git("merge", "-q", "-m", "both", "one")
    path = repository.path / "conda-lock.yml"
    merged = read_lockfile(path)
    assert urls(base) <= urls(merged)
    assert urls(merged) == urls(one) | urls(other)
    assert envtool("lock", "--check").returncode == 0
    text = path.read_bytes()
    assert envtool("lock").returncode == 0
    assert path.read_bytes() == text
    repository.git("checkout", "-q", "one")
    repository.git("rebase", "-q", "other")
    assert urls(read_lockfile(path)) == urls(merged)


def test_what_both_have_changed_is_a_conflict(repository: Repository, envtool) -> None:
    repository.commit(BASE, "main")
    repository.commit(BASE.replace("numpy=1.26", "numpy=2.0"), "one")
    ours = repository.commit(BASE.replace("  - click\n", "  - click=8.1.7\n"), "other")
    assert "CONFLICT" not in repository.git("merge", "-q", "-m", "both", "one")
    repository.git("reset", "-q", "--hard", "HEAD~1")
    repository.commit(BASE.replace("  - click\n", "  - click=8.1.8\n  - pip\n"), "third")
    repository.git("checkout", "-q", "other")
    said = repository.git("merge", "-m", "no", "third", code=1)
    assert "environment.yml has conflicts" in said
    assert read_lockfile(repository.path / "conda-lock.yml") == ours


def test_outdated_and_why_not(repository: Repository, envtool) -> None:
    repository.commit(BASE, "main")
    found = json.loads(envtool("outdated", "--json").stdout)
    own = {each["name"]: each for each in found if each["is_own"]}
    assert own["numpy"]["locked"].startswith("1.26")
    assert own["numpy"]["held_by"] == "environment.yml:6 asks for numpy=1.26"
    assert [each["is_own"] for each in found] == sorted((each["is_own"] for each in found), reverse=True)
    refused = envtool("why-not", "numpy=2.0")
    assert refused.returncode == 0
    assert "environment.yml:6: numpy=1.26" in refused.stdout
    assert "no channel has such a version" in envtool("why-not", "numpy=99").stdout
    fits = envtool("why-not", "click=8.1.7")
    assert fits.returncode == 1
    assert "would move click" in fits.stdout
