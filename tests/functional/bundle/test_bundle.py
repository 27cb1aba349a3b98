"""A real environment in a bundle, installed by a bare Python on a machine without a network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from envtool.bundle.format import open_bundle
from tests.functional.channel.conftest import shared_channel
from tests.functional.prefix.conftest import User, user
from tests.functional.prefix.test_old_locks import write_index
from tests.support.archives import Archive, File, locked
from tests.support.repodata_server import serving
from tests.support.wheels import locked_wheel, write_wheel

__all__ = ["user"]  # a fixture

NOWHERE = "http://127.0.0.1:9"
CLOSED = {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "ALL_PROXY": NOWHERE, "no_proxy": ""}


@dataclass(frozen=True)
class Site:
    """Where bundles are made: a user with a lock, an environment made from it, a signed bundle and an unsigned one."""

    user: User
    prefix: Path
    digest: str
    bundle: Path
    directory: Path
    key: Path

    @property
    def python(self) -> Path:
        """A Python that has neither envtool nor any of its libraries."""
        return self.prefix / "bin" / "python"

    def bundle_again(self, name: str, *options: object) -> Path:
        target = self.user.home / name
        tools = self.user.home / "tools-lock.yml"
        self.user.run("bundle", "create", "-o", target, "--python", "3.9", "--tools", tools, *options)
        return target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = Path("/tmp") / f"envtool-{os.getpid()}-bundle"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    user = User(home)
    _, channel = shared_channel(tmp_path_factory)
    wheel = write_wheel(
        home, "hello", "1.0", {"hello.py": "def main():\n    print('hello')\n"}, {"hello": "hello:main"}
    )
    user.write_lock(*(locked(channel.archive(name)) for name in ("python", "pip")), locked_wheel(wheel))
    digest = json.loads(user.run("create", "-p", home / "made", "--json").stdout)["env_digest"]
    key = home / "team.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", home / "team.pub"], check=True)
    site = Site(user, home / "made", digest, home / "first.pyz", home / "directory", key)
    site.bundle_again("first.pyz", "--key", key)
    site.bundle_again("directory", "--directory")
    yield site
    shutil.rmtree(home)


def alone() -> list[str]:
    """What a command is started with so that it has no network, where this machine allows that."""
    done = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    return ["unshare", "-rn"] if done.returncode == 0 else []


def start(site: Site, home: Path, bundle: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a bundle on another machine, so to speak: a new home, a bare Python and no network."""
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", **CLOSED}
    argv = [*alone(), site.python, "-I", bundle, *arguments]
    done = subprocess.run([str(argument) for argument in argv], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_bare_python_makes_the_same_environment(site: Site, user: User) -> None:
    told = start(site, user.home, site.bundle, "-p", user.home / "env", "--json")
    answer = json.loads(told.stdout)
    assert (answer["env_digest"], answer["changed"]) == (site.digest, True)
    assert subprocess.run([user.home / "env/bin/hello"], capture_output=True, text=True).stdout == "hello\n"
    again = json.loads(start(site, user.home, site.bundle, "-p", user.home / "env", "--json").stdout)
    assert (again["env_digest"], again["changed"]) == (site.digest, False)
    program = start(site, user.home, site.bundle, "--tools").stdout.strip()
    env = {"HOME": str(user.home), "PATH": "/usr/bin:/bin", **CLOSED}
    subprocess.run(["tar", "xf", site.bundle, "-C", user.home, "conda-lock.yml"], check=True)
    argv = [*alone(), program, "verify", "-p", "env", "-f", "conda-lock.yml"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, cwd=user.home)
    assert done.returncode == 0, done.stderr


def test_made_twice_it_is_the_same_to_the_byte(site: Site) -> None:
    again = site.bundle_again("second.pyz", "--key", site.key)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(site.bundle.read_bytes()).digest()
    again.unlink()


def test_an_old_lock_with_md5_only_is_completed(site: Site, user: User, tmp_path: Path) -> None:
    archive = Archive("tool", {"share/tool": File(b"1")}).write(tmp_path / "channel")
    write_index(tmp_path / "channel", archive)
    with serving(tmp_path / "channel") as base:
        old = replace(locked(archive), url=f"{base}/linux-64/{archive.name}", sha256=None)
        bundle = site.bundle_again("old.pyz", "-f", site.user.write_lock(old, name="old-lock.yml"))
    user.run("bundle", "install", bundle, "-p", user.home / "env", **CLOSED)
    assert (user.home / "env/share/tool").read_bytes() == b"1"
    bundle.unlink()


def test_the_directory_form(site: Site, user: User) -> None:
    before = {path: path.stat().st_mtime_ns for path in site.directory.rglob("*") if path.is_file()}
    site.bundle_again("directory", "--directory")
    assert {path: path.stat().st_mtime_ns for path in site.directory.rglob("*") if path.is_file()} == before
    user.run("bundle", "verify", site.directory)


def test_a_lost_machine_comes_back_from_git_and_the_bundle(site: Site, user: User, tmp_path: Path) -> None:
    repository, clone = tmp_path / "repository", user.home / "clone"
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-C", str(repository)]
    repository.mkdir()
    shutil.copy(site.user.home / "conda-lock.yml", repository)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "the lock"], ["clone", "-q", ".", str(clone)]):
        subprocess.run([*git, *arguments], check=True)
    start(site, user.home, site.bundle, "-p", user.home / "env")
    of_clone = ["-p", user.home / "env", "-f", clone / "conda-lock.yml"]
    user.run("verify", *of_clone)
    assert site.digest in user.run("digest", *of_clone).stdout
    (user.home / "env/bin/hello").write_text("damaged")
    user.run("verify", *of_clone, code=1)
    user.run("create", *of_clone, "--repair")
    assert site.digest in user.run("digest", *of_clone).stdout


@pytest.mark.nightly
def test_a_bare_python_installs_the_directory_form(site: Site, user: User) -> None:
    told = start(site, user.home, site.directory / "install.pyz", "-p", user.home / "env", "--json")
    assert json.loads(told.stdout)["env_digest"] == site.digest


def test_damage_is_named_and_nothing_is_made(site: Site, user: User) -> None:
    bundle = open_bundle(site.bundle)
    damaged = user.home / "damaged.pyz"
    for path in ("envserve", "python-3.9"):
        name = next(place for place in bundle.places if place.split("/")[-1].startswith(path))
        shutil.copy(site.bundle, damaged)
        with damaged.open("r+b") as file:
            file.seek(bundle.places[name].offset + 1000)
            file.write(b"damage")
        told = start(site, user.home, damaged, "-p", user.home / "env", code=3).stderr
        assert name.split("/")[-1] in told
        assert "damaged or altered" in told
        assert not (user.home / "env" / "bin").exists()
        assert name.split("/")[-1] in user.run("bundle", "verify", damaged, code=3).stderr
    with damaged.open("r+b") as file:
        file.truncate(damaged.stat().st_size - 1)
    assert "cut off" in user.run("bundle", "verify", damaged, code=3).stderr


def test_a_signature_is_asked_for_where_a_key_is_trusted(site: Site, user: User) -> None:
    public = site.key.with_suffix(".pub")
    shown = json.loads(user.run("bundle", "verify", site.bundle, "--key", public, "--json").stdout)
    assert len(shown["key"]) == 16
    env = {"ENVTOOL_TRUSTED_KEYS": str(public)}
    told = json.loads(user.run("bundle", "verify", site.bundle, "--json", **env).stdout)
    assert told["key"] == shown["key"]
    refused = user.run("bundle", "install", site.directory, "-p", user.home / "env", code=3, **env).stderr
    assert "found none" in refused
    assert not (user.home / "env").exists()
    shutil.copytree(site.directory, user.home / "altered", copy_function=os.link)
    (user.home / "altered" / "manifest.sig").write_bytes(open_bundle(site.bundle).signature or b"")
    user.run("bundle", "verify", user.home / "altered", **env)
    manifest = (user.home / "altered" / "manifest.json").read_text()
    (user.home / "altered" / "manifest.json").unlink()
    (user.home / "altered" / "manifest.json").write_text(manifest + " ")
    assert "none of them made" in user.run("bundle", "verify", user.home / "altered", code=3, **env).stderr
    other = user.home / "other.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True)
    subprocess.run(["openssl", "pkey", "-in", other, "-pubout", "-out", user.home / "other.pub"], check=True)
    (user.home / "envtool").mkdir(exist_ok=True)
    (user.home / "envtool" / "config.toml").write_text('[trust]\nkeys = ["../other.pub"]\n')
    assert "none of them made" in user.run("bundle", "verify", site.bundle, code=3).stderr
    user.run("bundle", "verify", site.bundle, **env)


def test_openssl_checks_the_signature_where_no_envtool_is(site: Site, user: User) -> None:
    subprocess.run(["tar", "xf", site.bundle, "-C", user.home], check=True)
    argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", site.key.with_suffix(".pub"), "-rawin"]
    argv += ["-in", user.home / "manifest.json", "-sigfile", user.home / "manifest.sig"]
    assert subprocess.run(argv, check=False, capture_output=True).returncode == 0


def test_a_bundle_for_another_python_says_which(site: Site, user: User) -> None:
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if here == "3.9":
        pytest.skip("this is the Python that the bundle is for")
    env = {"HOME": str(user.home), "PATH": "/usr/bin:/bin"}
    argv = [sys.executable, "-I", str(site.bundle), "-n", "env"]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 3
    assert f"expected one of CPython 3.9 on linux-64, found CPython {here}" in done.stderr


def test_an_environment_whose_digest_is_not_listed(site: Site, user: User) -> None:
    policy = user.home / "policy.toml"
    policy.write_text('[create]\nenv-digests = ["0"]')
    env = {**CLOSED, "ENVSERVE_POLICY": str(policy)}
    told = user.run("bundle", "install", site.bundle, "-p", user.home / "env", code=3, **env).stderr
    assert "create.env-digests: " in told
    assert "it was made and may not be used" in told


def test_what_the_bundle_lacks_is_said(site: Site, user: User) -> None:
    told = user.run("bundle", "install", site.bundle, "-p", user.home / "env", "--platform", "osx-64", code=3).stderr
    assert "osx-64" in told
    (site.user.home / "mine").mkdir(exist_ok=True)
    (site.user.home / "mine" / "notes").write_text("mine")
    argv = ("bundle", "create", "-f", site.user.home / "conda-lock.yml", "--directory", "-o", site.user.home / "mine")
    assert "other than a bundle" in user.run(*argv, "--python", "3.9", code=3).stderr
    assert (site.user.home / "mine" / "notes").read_text() == "mine"


def test_the_peak_of_memory_does_not_grow_with_the_bundle(site: Site, user: User) -> None:
    script = "import sys; from envtool.cli import cli; cli.main(sys.argv[1:], standalone_mode=False); "
    script += "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    argv = [sys.executable, "-c", script, "bundle", "verify", str(site.bundle)]
    done = subprocess.run(argv, capture_output=True, text=True, env=user.env, check=True)
    size_bytes = site.bundle.stat().st_size
    assert size_bytes > 50_000_000
    assert int(done.stdout) * 1024 < size_bytes
