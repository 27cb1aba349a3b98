"""What people install programs with installs ours: uv, pipx and pre-commit, each from an empty home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environments import make_environment
from tests.support.pythons import UV, bare_environment, build_wheel, copy_clone
from tests.support.repodata_server import serving, variable

NAME = "envserve[envtool,serve]"
ENVIRONMENT = """\
channels: [conda-forge]
platforms: [linux-64]
dependencies: [python=3.9]
virtual-packages: {linux-64: {__glibc: "2.31"}}
"""
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.network


def run(argv: list[str], cwd: Path, env: dict[str, str], code: int = 0) -> str:
    done = subprocess.run(argv, cwd=cwd, env=env, text=True, stdout=-1, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == code, done.stdout
    return done.stdout


def bare(home: Path) -> dict[str, str]:
    """The variables of somebody who has just signed in and has git, wherever that is."""
    (home / "programs").mkdir()
    (home / "programs" / "git").symlink_to(shutil.which("git") or pytest.skip("git is not installed"))
    return bare_environment(home, home / "programs")


def commit(repository: Path) -> None:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for argv in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        run(["git", *argv], repository, env)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one installs from: a file of a wheel, and the URL of a repository."""
    asked = subprocess.run([*UV, "pip", "compile", "-q", "--no-cache", "-"], input=b"click", capture_output=True)
    if asked.returncode:
        pytest.skip(f"no package index is reached: {asked.stderr.decode()[-300:]}")
    place = tmp_path_factory.mktemp("sources")
    repository = copy_clone(place / "repository")
    commit(repository)
    return {"wheel": build_wheel(place / "wheel").as_uri(), "git": f"git+{repository.as_uri()}"}


@pytest.mark.parametrize("source", ["wheel", "git"])
@pytest.mark.parametrize("installer", ["uv", pytest.param("pipx", marks=pytest.mark.nightly)])
def test_an_installer_of_programs_gives_both(
    installer: str, source: str, sources: dict[str, str], tmp_path: Path
) -> None:
    env = bare(tmp_path)
    requirement = f"{NAME} @ {sources[source]}"
    if installer == "uv":
        # What was downloaded before, but nothing else of anybody's home.
        cache = subprocess.run([*UV, "cache", "dir"], stdout=-1, text=True, check=True).stdout.strip()
        run([*UV, "tool", "install", "-q", "-p", sys.executable, requirement], tmp_path, {**env, "UV_CACHE_DIR": cache})
    else:
        pipx = make_environment(["pipx"]).with_name("pipx")
        run([str(pipx), "install", "--python", sys.executable, requirement], tmp_path, env)
    programs = tmp_path / ".local" / "bin"
    assert run([str(programs / "envtool"), "--version"], tmp_path, env).startswith("envtool, version ")
    assert "publish" in run([str(programs / "serve"), "--help"], tmp_path, env)
    assert "conda-forge" in run([str(programs / "envtool"), "init", "--list"], tmp_path, env)


@pytest.mark.nightly
def test_pre_commit_asks_whether_the_lock_is_current(sources: dict[str, str], tmp_path: Path) -> None:
    url = sources["git"][len("git+") :]
    project, env = tmp_path / "project", bare(tmp_path)
    revision = run(["git", "ls-remote", url, "HEAD"], tmp_path, env).split()[0]
    project.mkdir()
    (project / "environment.yml").write_text(ENVIRONMENT)
    hook = f"repos:\n- repo: {url}\n  rev: {revision}\n  hooks:\n  - id: envtool-lock-check\n"
    (project / ".pre-commit-config.yaml").write_text(hook)
    with serving(ROOT / "tests/data/repodata") as base:
        own = {"PYTHONPATH": str(ROOT), "ENVTOOL_MIRRORS": variable(base, ["conda-forge"])}
        run([sys.executable, "-m", "envtool", "lock"], project, {**env, **own})
    commit(project)
    argv = [str(make_environment(["pre-commit"]).with_name("pre-commit")), "run", "--all-files"]
    assert "Passed" in run(argv, project, env)
    (project / "environment.yml").write_text(ENVIRONMENT.replace("[python=3.9]", "[python=3.9, flask]"))
    shown = run(argv, project, env, code=1)
    assert "Failed" in shown
    assert "environment.yml:3: " in shown
