"""Environments with a real Python 3.9 and wheels: byte-code, scripts, and what reproducibility asks of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from envtool.console import ProgressDisplay
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.mirrors.mirrors import Mirrors
from envtool.solve.pip_solver import GitWheels
from envtool.spec.environment import Dependency, EnvironmentSpec
from envtool.spec.version_policy import VersionPolicy
from tests.functional.prefix.conftest import User
from tests.support.git_repository import GitRepository
from tests.support.wheels import locked_wheel, write_wheel


def digest_of(user: User, prefix: Path) -> str:
    return json.loads(user.run("create", "-p", prefix, "--json").stdout)["env_digest"]


def test_an_environment_with_wheels(user: User, python: tuple[LockedPackage, ...], hello: LockedPackage) -> None:
    user.write_lock(*python, hello)
    prefix, other = user.home / "env", user.home / "another-and-longer" / "place"
    digest = digest_of(user, prefix)
    assert digest_of(user, other) == digest
    site_packages = prefix / "lib/python3.9/site-packages"
    module = site_packages / "hello_world/__init__.py"
    for script in ("hello", "plain"):
        shown = user.run("run", "-p", prefix, "--", script).stdout.split()
        assert shown == [str(module), str(module), str(site_packages)]
    assert "pip " in user.run("run", "-p", prefix, "--", "pip", "--version").stdout
    assert (prefix / "share/hello.txt").read_text() == "data\n"
    assert list(prefix.rglob("uv_cache.json")) == []
    assert list(prefix.rglob("direct_url.json")) == []
    # Using it writes nothing into it, and nothing in it depends on where it is.
    user.run("verify", "-p", prefix)
    user.run("verify", "-p", other, "--rebuild")
    names = {str(path.relative_to(prefix)) for path in prefix.rglob("*.pyc")}
    source = prefix / "lib/python3.9/_sysconfigdata__linux_x86_64-linux-gnu.py"
    differing = {name for name in names if (prefix / name).read_bytes() != (other / name).read_bytes()}
    assert len(names) > 500
    assert all(Path(name).name.startswith("_sysconfigdata_") for name in differing)
    assert str(prefix) in source.read_text()


def test_a_wheel_whose_files_may_all_be_executed(user: User, python: tuple[LockedPackage, ...], tmp_path: Path) -> None:
    # As protobuf's wheels are; RECORD too, which the installer writes into the file that is there.
    wheel = write_wheel(tmp_path, "loose", "1.0", {"loose.py": ""}, {}, mode=0o777)
    user.write_lock(*python, locked_wheel(wheel))
    prefix = user.home / "env"
    user.run("create", "-p", prefix)
    user.run("verify", "-p", prefix)
    assert (prefix / "lib/python3.9/site-packages/loose-1.0.dist-info/RECORD").stat().st_mode & 0o100


def test_a_project_of_a_git_repository(
    user: User, python: tuple[LockedPackage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVTOOL_HOME", str(tmp_path / "another user"))
    repository = GitRepository(tmp_path / "greet")
    repository.commit("1.0")
    spec = EnvironmentSpec((tmp_path / "environment.yml",), None, ("conda-forge",), ())
    built = GitWheels(spec, Mirrors(), VersionPolicy(), ProgressDisplay()).wheel(
        Dependency(f"greet @ git+{repository.url}", "here")
    )
    wheel = built[0]
    greet = LockedPackage("pip", wheel.name, wheel.version, "linux-64", wheel.url, wheel.sha256, built=wheel.built)
    user.write_lock(*python, greet)
    prefix = user.home / "env"
    # Her cache has not got it: it is built from the commit.
    assert "build greet from" in user.run("create", "-p", prefix).stderr
    assert (prefix / "lib/python3.9/site-packages/greet.py").read_text() == "VERSION = '1.0'\n"
    user.run("verify", "-p", prefix)
    other = replace(greet, sha256="0" * 64)
    user.write_lock(*python, other)
    assert "is not the file that was expected" in user.run("create", "-p", prefix, code=3).stderr


def test_wheels_come_and_go_with_the_lock(user: User, python: tuple[LockedPackage, ...], hello: LockedPackage) -> None:
    user.write_lock(*python, hello)
    prefix = user.home / "env"
    digest = digest_of(user, prefix)
    user.write_lock(*python)
    without = digest_of(user, prefix)
    assert without != digest
    assert not (prefix / "bin/hello").exists()
    assert not (prefix / "lib/python3.9/site-packages/hello_world").exists()
    user.run("verify", "-p", prefix)
    user.write_lock(*python, hello)
    assert digest_of(user, prefix) == digest


def test_tampered_code_and_byte_code_are_found(
    user: User, python: tuple[LockedPackage, ...], hello: LockedPackage
) -> None:
    user.write_lock(*python, hello)
    prefix = user.home / "env"
    digest = digest_of(user, prefix)
    compiled = prefix / "lib/python3.9/__pycache__/os.cpython-39.pyc"
    data = bytearray(compiled.read_bytes())
    data[-1] ^= 1
    compiled.write_bytes(data)
    (prefix / "bin/hello").write_text("#!/bin/sh\n")
    (prefix / "bin/plain").write_text("#!/bin/sh\n")
    with (prefix / "lib/python3.9/site-packages/hello_world-1.0.dist-info/RECORD").open("a") as record:
        record.write("added.py,,\n")
    (prefix / "lib/python3.9/site-packages/hello_world/added.py").write_text("")
    found = json.loads(user.run("verify", "-p", prefix, "--json", code=1).stdout)["findings"]
    assert [(each["kind"], each["what"]) for each in found] == [
        ("extra", "lib/python3.9/site-packages/hello_world/added.py"),
        ("mismatched", "bin/hello"),
        ("mismatched", "bin/plain"),
        ("mismatched", "lib/python3.9/__pycache__/os.cpython-39.pyc"),
        ("mismatched", "lib/python3.9/site-packages/hello_world-1.0.dist-info/RECORD"),
    ]
    user.run("create", "-p", prefix, "--repair")
    user.run("verify", "-p", prefix)
    assert digest_of(user, prefix) == digest


def test_what_pip_installed_by_hand_goes_with_the_next_change_of_the_lock(
    user: User, python: tuple[LockedPackage, ...], hello: LockedPackage, tmp_path: Path
) -> None:
    other = write_wheel(tmp_path, "other", "1.0", {"other.py": "x = 1\n"}, {})
    by_hand = write_wheel(tmp_path, "by_hand", "1.0", {"by_hand.py": "x = 1\n"}, {"by-hand": "by_hand:x"})
    user.write_lock(*python, hello, locked_wheel(other))
    digest = digest_of(user, user.home / "untouched")
    prefix = user.home / "env"
    user.write_lock(*python, hello)
    user.run("create", "-p", prefix)
    user.run("run", "-p", prefix, "--", "pip", "install", "--quiet", "--no-index", "--no-deps", by_hand)
    assert (prefix / "bin/by-hand").exists()
    user.write_lock(*python, hello, locked_wheel(other))
    assert digest_of(user, prefix) == digest
    assert not (prefix / "bin/by-hand").exists()
    assert not list(prefix.rglob("*by_hand*"))
    user.run("verify", "-p", prefix)


@pytest.mark.parametrize("script", ["bin/plain", "bin/pip"])  # of a wheel, of a conda package
def test_no_create_takes_an_altered_script_for_right(
    user: User, python: tuple[LockedPackage, ...], hello: LockedPackage, tmp_path: Path, script: str
) -> None:
    other = locked_wheel(write_wheel(tmp_path, "other", "1.0", {"other.py": ""}, {}))
    user.write_lock(*python, hello, other)
    digest = digest_of(user, user.home / "untouched")
    prefix = user.home / "env"
    user.write_lock(*python, hello)
    user.run("create", "-p", prefix)
    # No archive holds what an entry point has to be; only the notes of the create that wrote it tell.
    (prefix / script).write_text("#!/bin/sh\necho altered\n")
    user.write_lock(*python, hello, other)
    assert digest_of(user, prefix) == digest
    (prefix / script).unlink()
    assert json.loads(user.run("create", "-p", prefix, "--repair", "--json").stdout)["env_digest"] == digest
    user.run("verify", "-p", prefix)


def test_wheels_that_share_paths_end_the_same_every_time(user: User, python: tuple[LockedPackage, ...]) -> None:
    def wheel(name: str, *paths: str, **scripts: str) -> LockedPackage:
        files = {**dict.fromkeys((f"{name}.py", *paths), f"# {name}\n"), "same/__init__.py": ""}
        return locked_wheel(write_wheel(user.home, name, "1.0", files, scripts))

    first = wheel("wa", "tests/__init__.py", "x/y.py", run="wa:a")
    second = wheel("wb", "tests/__init__.py", "tests/b.py", "x.py", run="wb:b")
    third = wheel("wc", "tests/__init__.py", "{data}/scripts/run", "x.py/z.py")
    prefix, fresh = user.home / "env", user.home / "fresh"
    user.write_lock(*python, first, second, third)
    said = user.run("create", "-p", prefix).stderr
    assert "warning: wc and wb bring the same path: " in said
    assert "same/__init__.py" not in said
    site_packages = prefix / "lib/python3.9/site-packages"
    assert (site_packages / "tests/__init__.py").read_text() == "# wc\n"
    assert (site_packages / "x.py/z.py").exists()
    user.write_lock(*python, first, second)
    assert digest_of(user, prefix) == digest_of(user, fresh)
    assert (site_packages / "tests/__init__.py").read_text() == "# wb\n"
    assert (site_packages / "x.py").read_text() == "# wb\n"
    (site_packages / "tests/__init__.py").unlink()
    user.run("create", "-p", prefix, "--repair")
    assert user.run("digest", "-p", prefix).stdout == user.run("digest", "-p", fresh).stdout
