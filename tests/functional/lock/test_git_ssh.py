"""Requirements that name a git repository behind ssh, as most private ones are: a real sshd and the machine's ssh."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from envtool.console import ProgressDisplay
from envtool.fetch.archive_cache import Cache, sha256_of
from envtool.lockfile.conda_lock_v1 import read_lockfile
from envtool.source_builds.wheel_builds import rebuild
from tests.functional.lock.test_git import ENVIRONMENT
from tests.support.git_repository import GitRepository
from tests.support.ssh_server import SSHD, SshServer, ssh_server

pytestmark = pytest.mark.skipif(
    not (SSHD and shutil.which("ssh") and shutil.which("ssh-keygen")),
    reason="needs OpenSSH: apt-get install openssh-server openssh-client",
)
# Far more than a refusal takes, and far less than the one who is asked takes to answer.
_LIMIT_S = 120.0


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    made = GitRepository(tmp_path / "repositories" / "greet")
    made.commit("1.0")
    made.git("tag", "v1")
    made.commit("2.0")
    made.publish(tmp_path / "published" / "greet.git")
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    directory = tmp_path / "ssh"
    directory.mkdir(mode=0o700)
    try:
        with ssh_server(directory) as running:
            yield running
    except RuntimeError as error:
        if "privilege separation directory" not in str(error):
            raise
        pytest.skip(f"{error}; as root: mkdir /run/sshd")


def test_a_repository_behind_ssh(
    envtool, write, repository: GitRepository, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.url}{tmp_path / 'published' / 'greet.git'}"
    write(ENVIRONMENT.format(f"greet @ git+{url}@v1"))
    answer = envtool("lock", kill_after_s=_LIMIT_S, **server.variables)
    assert answer.returncode == 0, answer.stderr
    package = next(each for each in read_lockfile(tmp_path / "conda-lock.yml").packages if each.name == "greet")
    assert (package.version, package.url) == ("1.0", f"git+{url}@{repository.git('rev-parse', 'v1')}")
    # What create does with it on another machine, which has ssh set up as well.
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    assert sha256_of(rebuild(package, Cache(tmp_path / "another"), ProgressDisplay())) == package.sha256
    assert server.questions == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [(SshServer.forget_host, "Host key verification failed."), (SshServer.lock_key, "Permission denied (publickey).")],
    ids=["a host that is not known", "a key with a passphrase"],
)
def test_what_ssh_would_ask_about_is_refused_with_its_reason(
    envtool, write, repository: GitRepository, server: SshServer, tmp_path: Path,
    change: Callable[[SshServer], None], reason: str,
) -> None:  # fmt: skip
    change(server)
    url = f"{server.url}{tmp_path / 'published' / 'greet.git'}"
    write(ENVIRONMENT.format(f"greet @ git+{url}@v1"))
    answer = envtool("lock", kill_after_s=_LIMIT_S, **server.variables)
    assert server.questions == ""
    assert answer.returncode == 3, answer.stderr
    assert f"error: {url} could not be downloaded:" in answer.stderr
    assert reason in answer.stderr
    assert "and does git have what it needs to log in?" in answer.stderr.partition("hint: ")[2]
    assert not (tmp_path / "conda-lock.yml").exists()
