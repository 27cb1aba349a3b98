"""Archives that others made, in one channel and one environment: one lock, one digest, whatever came before.

The archives are those of `tests/support/odd_archives.py`. With ENVTOOL_TEST_ARCHIVES they are those below a directory:
what conda, conda-build and rattler keep as their own test data, which is not part of this repository.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.functional.prefix.conftest import User
from tests.support import odd_archives

OTHERS = os.environ.get("ENVTOOL_TEST_ARCHIVES")
# Of the others: a Python that does not run, and what nothing satisfies.
WITHOUT = {"python", "sample_noarch_python", "pip", "unsatisfiable", "feature", "dotslash-test", "no-index"}
SPEC = "channels: ['file://{}']\nplatforms: [linux-64]\nvirtual-packages: {{linux-64: {{__glibc: '2.31'}}}}\n"


@dataclass(frozen=True)
class Odd:
    """A channel of odd archives, and what `channel index` printed."""

    directory: Path
    archives: list[Path]
    told: str


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Odd:
    home = tmp_path_factory.mktemp("odd")
    noarch = home / "channel/noarch"
    noarch.mkdir(parents=True)
    if OTHERS:
        for archive in sorted([*Path(OTHERS).rglob("*.conda"), *Path(OTHERS).rglob("*.tar.bz2")]):
            shutil.copy(archive, noarch)
    else:
        odd_archives.write_all(noarch)
    archives = sorted(noarch.iterdir())
    told = User(home).run("channel", "index", noarch.parent).stderr
    return Odd(noarch.parent, archives, told)


def records(odd: Odd) -> list[dict[str, Any]]:
    repodata = json.loads((odd.directory / "noarch/repodata.json").read_bytes())
    return [*repodata["packages"].values(), *repodata["packages.conda"].values()]


def test_every_archive_is_indexed_or_named(user: User, odd: Odd) -> None:
    left_out = [line for line in odd.told.splitlines() if line.startswith("warning")]
    assert len(records(odd)) + len(left_out) == len(odd.archives)
    told = user.run("channel", "add", user.home / "added", *odd.archives, code=3 if left_out else 0).stderr
    refused = told.count("cannot be in an index") + told.count("damaged or contradicts itself")
    assert told.count("added noarch/") + refused == len(odd.archives)
    assert "0 issues" in user.run("channel", "check", user.home / "added").stderr
    for line in left_out:
        name = line.split()[1].rpartition("/")[2]
        assert "is left out of the index: No index.json found" in line
        told = user.run("channel", "add", user.home / "other", odd.directory / "noarch" / name, code=3).stderr
        assert f"{name} cannot be in an index" in told or f"{name} has no info/index.json" in told


def lock(user: User, odd: Odd, state: str, names: list[str]) -> Path:
    source, path = user.home / f"{state}.yml", user.home / f"{state}-lock.yml"
    source.write_text(SPEC.format(odd.directory) + f"dependencies: {json.dumps(names)}\n")
    user.run("lock", "-f", source, "-o", path)
    return path


def create(user: User, prefix: Path, path: Path) -> str:
    return str(json.loads(user.run("create", "-p", prefix, "-f", path, "--json").stdout)["env_digest"])


def test_one_lock_is_one_environment_whatever_came_before(user: User, odd: Odd) -> None:
    names = sorted({record["name"] for record in records(odd)} - WITHOUT)
    assert len(names) >= 20
    states = {"all": names, "some": names[::2], "others": names[1::2]}
    locks = {state: lock(user, odd, state, wanted) for state, wanted in states.items()}
    fresh = {state: create(user, user.home / state, path) for state, path in locks.items()}
    assert len(set(fresh.values())) == len(states)
    prefix = user.home / "changing"
    for state in ("some", "all", "others", "all"):
        assert create(user, prefix, locks[state]) == fresh[state], state
    user.run("verify", "-p", prefix, "-f", locks["all"], "--rebuild")
    if not OTHERS:
        assert (prefix / "lib/data.txt").read_bytes() == b"dots\n"
        assert (prefix / "lib/libhard.so").read_bytes() == b"real"
        assert (prefix / "lib/blob.bin").stat().st_size == 70_015
    user.run("channel", "mirror", "--lock", locks["all"], user.home / "mirror")
    bundle = user.home / "all.pyz"
    user.run("bundle", "create", "-f", locks["all"], "-o", bundle, "--python", "3.9")
    user.run("bundle", "verify", bundle)
    told = json.loads(user.run("bundle", "install", bundle, "-p", user.home / "two", "--json").stdout)
    assert told["env_digest"] == fresh["all"]
    assert told["link_scripts"]
    assert told["clobbers"]
