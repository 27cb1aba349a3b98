"""What an update keeps and what it holds fast: the packages that move, where the fresh lock has them; nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import INPUTS_KEY
from envtool.lockfile.model import LockedPackage, SourceBuild
from envtool.solve.lock import _commits, _preference, package_of, pip_bound
from envtool.solve.recorded_inputs import serialize
from envtool.spec.environment import Dependency, EnvironmentSpec, PlatformSpec
from tests.support.archives import lock_of

HERE = PlatformSpec("linux-64", conda=())


def conda(name: str, version: str = "1.0", platform: str = "linux-64") -> LockedPackage:
    url = f"file:///channel/{platform}/{name}-{version}-h0_0.conda"
    return LockedPackage("conda", name, version, platform, url, "0" * 64, build="h0_0")


def wheel(name: str, version: str = "1.0") -> LockedPackage:
    return LockedPackage("pip", name, version, "linux-64", f"file:///index/{name}-{version}-py3-none-any.whl", "0" * 64)


def test_what_moves_is_held_where_the_fresh_lock_has_it_and_the_rest_is_kept() -> None:
    old = lock_of(conda("moves"), conda("stays"), wheel("rolls"), wheel("rests"), conda("moves", platform="osx-64"))
    newer = [replace(package, version="2.0") for package in (conda("moves"), conda("stays"), wheel("rolls"))]
    fresh = [*newer, wheel("rests", "2.0"), conda("moves", "3.0", "osx-64"), conda("brought")]
    found = _preference(old, fresh, HERE, ["moves", "rolls", "brought"], ())
    assert found.constraints == ("moves[version='==2.0',build='h0_0']",)
    assert found.pip_constraints == ("rolls==2.0",)
    assert found.keep == (conda("stays").url,)
    assert [kept.name for kept in found.keep_wheels] == ["rests"]


def test_the_wheels_of_commits_stay_on_their_platform_while_their_lines_do() -> None:
    lines = tuple(
        Dependency(f"{name} @ git+https://code.test/{name}", "environment.yml:9") for name in ("kept", "moves")
    )
    here, there = (PlatformSpec(name, (), pip=lines) for name in ("linux-64", "osx-64"))
    spec = EnvironmentSpec((Path("environment.yml"),), None, (), (here, there))
    build = SourceBuild("kept-1.0-py3-none-any.whl", "1.0", "0" * 64, 0, ())
    made = [replace(wheel(name), built=build) for name in ("kept", "moves", "gone")]
    elsewhere = replace(made[0], platform="osx-64", version="2.0")
    old = lock_of(*made, elsewhere, wheel("plain"), **{INPUTS_KEY: serialize(spec, {})})
    found = _commits(old, here, ["moves"])
    assert [(kept.name, kept.version, kept.built) for kept in found] == [("kept", "1.0", build)]


@pytest.mark.parametrize(
    ("text", "bound"),
    [("numpy=1.26", "numpy==1.26"), ("numpy==1.26", "numpy==1.26"), ("numpy>=1,<2", "numpy>=1,<2"), ("numpy", "numpy")],
)
def test_a_match_spec_as_pip_writes_it(text: str, bound: str) -> None:
    assert package_of(text) == "numpy"
    assert pip_bound("numpy", text) == bound
