"""Packages that are one Python distribution: a conda package and a wheel are refused, two conda packages are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage
from tests.functional.prefix.conftest import User
from tests.support.archives import Archive, File, locked
from tests.support.wheels import locked_wheel, write_wheel


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "over-another"])
def test_a_collision_is_refused_and_the_prefix_stays(user, tmp_path: Path, is_there: bool) -> None:
    brought = {"site-packages/foo_x.py": File(b"version = 1"), "site-packages/Foo_X-1.0.dist-info/METADATA": File(b"")}
    conda = locked(Archive("foo-base", brought, noarch="python", subdir="noarch").write(tmp_path))
    plain = locked(Archive("plain", {"share/plain": File(b"1")}).write(tmp_path))
    wheel = locked_wheel(write_wheel(tmp_path, "foo_x", "2.0", {"foo_x.py": "version = 2"}, {}))
    prefix = user.home / "prefix"
    if is_there:
        user.run("create", "-p", prefix, "-f", user.write_lock(plain))
    answer = user.run("create", "-p", prefix, "-f", user.write_lock(conda, plain, wheel), code=3)
    assert "foo-base 1.0: it brings the Python distribution foo-x 1.0, and so does foo_x-2.0" in answer.stderr
    assert (prefix / "share/plain").exists() == is_there
    if is_there:
        user.run("verify", "-p", prefix, "-f", user.write_lock(plain))


def test_two_conda_packages_that_are_one_distribution_are_named(user: User, tmp_path: Path) -> None:
    def package(name: str, version: str, distribution: str) -> LockedPackage:
        info = f"lib/python3.9/site-packages/{distribution}-{version}.dist-info/METADATA"
        files = {info: File(f"Name: {distribution}\nVersion: {version}\n".encode()), f"share/{name}": File()}
        return locked(Archive(name, files, version=version).write(tmp_path))

    user.write_lock(package("foo-base", "1.0", "Foo_x"), package("foo-full", "2.0", "foo.x"), package("b", "1", "b"))
    told = json.loads(user.run("create", "-p", user.home / "env", "--json").stdout)
    line = "the Python distribution foo-x is brought by foo-base (1.0) and foo-full (2.0)"
    assert told["distributions_twice"] == [line]
    assert f"warning: {line}" in user.run("create", "-p", user.home / "env", "--force").stderr
