"""A program of Debian's and its libraries, made into packages, installed by envtool and run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from envtool import paths
from envtool.artifacts import conda_writer
from envtool.channel.python_recipe import apt_sources
from envtool.channel.python_recipe.recipe import PoolFile
from envtool.console import Display
from envtool.errors import EnvtoolError
from envtool.fetch.archive_cache import Cache
from envtool.fetch.downloader import fetch
from tests.functional.prefix.conftest import User, user

__all__ = ["user"]  # a fixture

POOL = "pool/main"
DEBS = [
    PoolFile("main", f"{POOL}/{path}", sha256)
    for path, sha256 in (
        ("b/bc/bc_1.07.1-3+b1_amd64.deb", "baaa4e935c5e3bcd57d4f2f4e7a1ddc67bd4eb8629d98f97a696548849ae01ac"),
        (
            "r/readline/libreadline8_8.2-1.3_amd64.deb",
            "e02ebbd3701cf468dbf98d6d917fbe0325e881f07fe8b316150c8d2a64486e66",
        ),
        (
            "r/readline/readline-common_8.2-1.3_all.deb",
            "69317523fe56429aa361545416ad339d138c1500e5a604856a80dd9074b4e35c",
        ),
        ("n/ncurses/libtinfo6_6.4-4_amd64.deb", "072d908f38f51090ca28ca5afa3b46b2957dc61fe35094c0b851426859a49a51"),
    )
]
ENVIRONMENT = """\
name: calculator
channels: [{channel}]
platforms: [linux-64]
virtual-packages: {{linux-64: {{__glibc: "2.36"}}}}
dependencies: [bc]
"""


@pytest.fixture(scope="module")
def debs() -> list[Path]:
    """Debian 12's bc and all that it needs, from where this machine's apt has them; kept in the user's cache."""
    sources = apt_sources.configured()
    wanted = {each: apt_sources.wanted(each, (), sources) for each in DEBS}
    try:
        with Display() as display, display.task("fetch") as task:
            found = fetch(wanted.values(), Cache(paths.cache()), task)
    except EnvtoolError as error:
        pytest.skip(f"no Debian archive is reached: {error}")
    return [found[wanted[each]] for each in DEBS]


def options(debs: list[Path]) -> list[object]:
    return [each for deb in debs for each in ("--deb", deb)]


@pytest.mark.network
def test_a_program_and_its_libraries_run_from_a_prefix(debs: list[Path], user: User) -> None:
    build = ("channel", "build", *options(debs), "--rename", "dpkg=", "--json", "--output")
    said = user.run(*build, user.home / "channel")
    assert "libreadline8-8.2_1.3-h" in said.stdout
    assert "bc: Debian runs postinst" in said.stderr
    again = json.loads(user.run(*build, user.home / "again").stdout)["added"]
    assert len(again) == 4
    for name in again:
        assert (user.home / "again" / name).read_bytes() == (user.home / "channel" / name).read_bytes()
    bc = next(user.home / "channel" / name for name in again if "/bc-" in name)
    assert conda_writer.read(bc).index["depends"] == ["__glibc >=2.14", "libreadline8 >=8.2_1.3"]
    assert b"Upstream-Name: bc" in conda_writer.read(bc).info["licenses/bc/copyright"]

    (user.home / "environment.yml").write_text(ENVIRONMENT.format(channel=(user.home / "channel").as_uri()))
    user.run("lock")
    prefix = user.home / "env"
    user.run("create", "-p", prefix)
    # Nothing of this machine's but glibc, whatever LD_LIBRARY_PATH says.
    env = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": "/lib/x86_64-linux-gnu"}
    done = subprocess.run([prefix / "bin/bc"], input="2^70\n", env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "1180591620717411303424\n"
    used = subprocess.run(["ldd", prefix / "bin/bc"], env=env, capture_output=True, text=True, check=True).stdout
    for library in ("libreadline.so.8", "libtinfo.so.6"):
        assert f"{library} => {prefix}/bin/../lib/{library}" in used


@pytest.mark.network
def test_a_library_that_is_nowhere_is_refused(debs: list[Path], user: User) -> None:
    bc, readline, common, _ = debs
    without = user.run(
        "channel", "build", *options([bc, readline, common]), "--rename", "dpkg=", "--output", "c", code=3
    )
    assert "libreadline8 depends on libtinfo6, which is not among the packages" in without.stderr
    # Debian's word can be overruled, that of the file cannot.
    names = ("--rename", "dpkg=", "--rename", "libtinfo6=")
    without = user.run("channel", "build", *options([bc, readline, common]), *names, "--output", "c", code=3)
    assert "needs libtinfo.so.6, which none of the packages has" in without.stderr
    assert not (user.home / "c").exists()
