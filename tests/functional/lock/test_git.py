"""Requirements that name a git repository: locked to a commit and a hash, and built to the same bytes again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from envtool.console import ProgressDisplay
from envtool.errors import HashMismatchError, NetworkError, SolveError
from envtool.fetch.archive_cache import Cache, sha256_of
from envtool.lockfile.conda_lock_v1 import LockedPackage, read_lockfile
from envtool.lockfile.model import Repository, parse_repository
from envtool.mirrors.mirrors import Mirrors
from envtool.solve.pip_solver import GitWheels
from envtool.source_builds import git
from envtool.source_builds.wheel_builds import rebuild
from envtool.spec.environment import Dependency, EnvironmentSpec
from envtool.spec.version_policy import VersionPolicy, cutoff
from tests.support.git_repository import GitRepository
from tests.support.git_server import protected, smart
from tests.support.mirror_simulator import MirrorSimulator

ENVIRONMENT = """\
channels: [conda-forge]
platforms: [linux-64]
dependencies:
  - python=3.9
  - pip:
      - {}
"""


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    """Version 1.0 with the tag v1, and 2.0 on the branch main."""
    made = GitRepository(tmp_path / "repositories" / "greet")
    made.commit("1.0")
    made.git("tag", "--annotate", "--message=1", "v1")
    made.commit("2.0")
    return made


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The lock's entry for a requirement, with nothing kept from before."""
    monkeypatch.setenv("ENVTOOL_HOME", str(tmp_path / "home"))
    spec = EnvironmentSpec((tmp_path / "environment.yml",), None, ("conda-forge",), ())

    def choose(requirement: str, policy: VersionPolicy | None = None) -> LockedPackage:
        wheels = GitWheels(spec, Mirrors(), policy or VersionPolicy(), ProgressDisplay())
        found = wheels.wheel(Dependency(requirement, "environment.yml:7"))[0]
        return LockedPackage(
            "pip", found.name, found.version, "linux-64", found.url, found.sha256, built=found.built
        )  # fmt: skip

    return choose


def test_a_branch_that_moves_on(envtool, write, repository: GitRepository, tmp_path: Path) -> None:
    commit = repository.git("rev-parse", "HEAD")
    write(ENVIRONMENT.format(f"greet[loud] @ git+{repository.url}@main ; sys_platform == 'linux'"))
    answer = envtool("lock")
    assert answer.returncode == 0, answer.stderr
    package = next(each for each in read_lockfile(tmp_path / "conda-lock.yml").packages if each.name == "greet")
    assert (package.version, package.url) == ("2.0", f"git+{repository.url}@{commit}")
    before = (tmp_path / "conda-lock.yml").read_bytes()

    newer = repository.commit("3.0")
    assert envtool("lock", "--check").returncode == 0
    # Another machine, later: the commit of the lock, which no branch ends in any more, gives the very wheel.
    cache = Cache(tmp_path / "another")
    assert sha256_of(rebuild(package, cache, ProgressDisplay())) == package.sha256
    assert envtool("lock", "--update", "pip").returncode == 0
    assert (tmp_path / "conda-lock.yml").read_bytes() == before
    assert envtool("lock", "--update", "greet").returncode == 0
    assert f"@{newer}" in (tmp_path / "conda-lock.yml").read_text()
    exported = envtool("export", "pylock").stdout
    assert f'vcs = {{ type = "git", url = "{repository.url}", commit-id = "{newer}" }}' in exported
    assert f"- greet @ git+{repository.url}@{newer}" in envtool("export", "environment").stdout


def test_a_subdirectory_of_a_repository_on_a_plain_file_server(repository, chosen, tmp_path: Path) -> None:
    commit = repository.commit("1.5", name="below", below="packages/below")
    repository.publish(tmp_path / "published" / "greet.git")
    with MirrorSimulator() as server:
        server.put_tree(tmp_path / "published")
        package = chosen(f"below @ git+{server.url}greet.git#subdirectory=packages/below")
        assert package.url == f"git+{server.url}greet.git@{commit}#subdirectory=packages/below"
        assert (package.name, package.version) == ("below", "1.5")


@pytest.mark.parametrize("revision", ["v1", "main", None])
def test_a_server_that_speaks_gits_own_protocol(repository, chosen, tmp_path: Path, revision: str | None) -> None:
    repository.publish(tmp_path / "published" / "greet.git")
    asked: list[str] = []
    with smart(tmp_path / "published", asked) as base:
        package = chosen(f"greet @ git+{base}/greet.git" + (f"@{revision}" if revision else ""))
    commit = repository.git("rev-parse", f"{revision or 'HEAD'}^{{commit}}")
    assert package.url == f"git+{base}/greet.git@{commit}"
    assert package.version == ("1.0" if revision == "v1" else "2.0")
    assert "POST /greet.git/git-upload-pack" in asked
    assert not any("objects" in each for each in asked)  # a plain file server's way


def test_bytes_that_are_not_the_locked_ones(repository, chosen, tmp_path: Path) -> None:
    package = chosen(f"greet @ git+{repository.url}@v1")
    assert package.version == "1.0"
    assert package.built
    other_files = replace(package, built=replace(package.built, tree_sha256="0" * 64))
    with pytest.raises(HashMismatchError, match=f"what {repository.url} has at"):
        rebuild(other_files, Cache(tmp_path / "one"), ProgressDisplay())
    with pytest.raises(HashMismatchError, match=r"greet-1.0-py3-none-any.whl is not the file"):
        rebuild(replace(package, sha256="0" * 64), Cache(tmp_path / "two"), ProgressDisplay())


@pytest.mark.parametrize(
    ("project", "message"),
    [
        ({"more": "str(time.time_ns())"}, "environment.yml:7: .* does not build the same greet-9-py3-none-any.whl"),
        ({"tag": "cp39-cp39-linux_x86_64"}, "greet-9-cp39-cp39-linux_x86_64.whl is not pure Python"),
        ({"name": "other"}, "environment.yml:7: expected greet in .*, found other"),
        ({"more": "1 / 0"}, "the wheel of greet cannot be built:"),
    ],
    ids=["not the same twice", "compiled", "another name", "broken"],
)  # fmt: skip
def test_projects_that_cannot_be_locked(repository, chosen, project: dict[str, str], message: str) -> None:
    repository.commit("9", **project)
    with pytest.raises(SolveError, match=message):
        chosen(f"greet @ git+{repository.url}")


def test_a_commit_that_is_too_young(repository, chosen, tmp_path: Path) -> None:
    from datetime import datetime, timezone

    policy = VersionPolicy(exclude_newer=cutoff("2026-01-01", datetime.now(timezone.utc), "--exclude-newer"))
    with pytest.raises(SolveError, match=r"is of 2026-01-02 03:04 UTC, which exclude-newer leaves out"):
        chosen(f"greet @ git+{repository.url}", policy)


def test_which_commit_a_revision_is(repository: GitRepository, tmp_path: Path) -> None:
    first, second = repository.git("rev-parse", "v1^{commit}"), repository.git("rev-parse", "main")
    repository.git("tag", "main", first)  # a branch comes before a tag of the same name
    for revision, commit in (("v1", first), ("main", second), (None, second), (first, first), ("refs/tags/v1", first)):
        assert git.resolve(Repository(repository.url, revision)) == commit, revision
    with pytest.raises(SolveError, match="has no branch and no tag 'v9'"):
        git.resolve(Repository(repository.url, "v9"))
    with pytest.raises(NetworkError, match="has no commit 00000"):
        git.check_out(Repository(repository.url), "0" * 40, tmp_path / "nothing")
    with pytest.raises(NetworkError, match="could not be downloaded"):
        git.resolve(Repository((tmp_path / "nowhere").as_uri()))


def test_what_this_machine_sets_for_git_changes_no_file(repository, tmp_path: Path, monkeypatch) -> None:
    config = tmp_path / "gitconfig"
    config.write_text("[core]\n\tautocrlf = true\n\thooksPath = /nowhere\n")
    commit = repository.git("rev-parse", "HEAD")
    git.check_out(Repository(repository.url), commit, tmp_path / "plain")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))  # as in a hook of git
    git.check_out(Repository(repository.url), commit, tmp_path / "set")
    assert git.tree_sha256(tmp_path / "set") == git.tree_sha256(tmp_path / "plain")
    assert b"\r" not in (tmp_path / "set" / "module.py").read_bytes()


def test_a_token_is_given_to_the_server_and_to_nobody_else(repository, chosen, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    repository.publish(tmp_path / "published" / "greet.git")
    with protected(tmp_path / "published", "x:s3cret") as base:
        url = base.replace("://", "://x:${TOKEN}@")
        package = chosen(f"greet @ git+{url}/greet.git@v1")
        assert package.url.startswith(f"git+{url}/greet.git@")
        monkeypatch.setenv("TOKEN", "an0ther")
        with pytest.raises(NetworkError, match="could not be downloaded") as failed:
            git.resolve(parse_repository(package.url).at("main"))
    assert "an0ther" not in failed.value.message
