"""Packages that bring the same path: py-rattler, linking into a second prefix, says what is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage
from tests.functional.prefix.conftest import ROOT, User
from tests.support.archives import Archive, File, locked

SITE = "lib/python3.9/site-packages"


def text(name: str) -> File:
    return File(f"of {name}\n".encode())


def files(name: str, *paths: str) -> dict[str, File]:
    return {path: text(f"{name} {path}") for path in (*paths, f"share/{name}")}


ARCHIVES = [
    Archive("python", {f"{SITE}/README": File(b"python\n")}, version="3.9.1"),
    # One path in six packages, some of which need others; two more in three of them.
    *(Archive(f"six-{each}", files(f"six-{each}", "share/six", *extra), depends=needs) for each, needs, extra in (
        ("a", ("six-d",), ()), ("b", (), ("share/three",)), ("c", ("six-a", "six-b"), ()), ("d", (), ("share/three",)),
        ("e", ("six-c",), ()), ("f", (), ("share/three",)),
    )),
    # A link against a file, and a script against an executable one.
    Archive("link-a", {"share/target": text("link"), "share/linked": File(link="target")}),
    Archive("link-b", {"share/linked": File(b"#!/bin/sh\n", 0o755)}, depends=("link-a",)),
    Archive("link-c", {"share/target-c": text("c"), "share/linked": File(link="target-c")}),
    # Renamed when linked: site-packages of noarch Python against the full path of another.
    Archive("noarch-a", files("noarch-a", "site-packages/mod/__init__.py"), subdir="noarch", noarch="python",
            depends=("python",)),
    Archive("noarch-b", files("noarch-b", "site-packages/mod/__init__.py", "python-scripts/tool"), subdir="noarch",
            noarch="python", depends=("python",)),
    Archive("noarch-c", files("noarch-c", f"{SITE}/mod/__init__.py", "bin/tool"), depends=("noarch-a",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LockedPackage]:
    root = tmp_path_factory.mktemp("shared")
    found = {}
    for archive in ARCHIVES:
        path = archive.write(root)
        path.with_name(f"{path.name}.index.json").write_bytes(archive.info()["info/index.json"])
        found[archive.name] = locked(path)
    return found


def tree(prefix: Path) -> dict[str, str]:
    """Every file and link outside of conda-meta, with its mode and content."""
    found = {}
    for parent, _, names in os.walk(prefix):
        for path in (Path(parent, name) for name in names):
            place = path.relative_to(prefix).as_posix()
            if not place.startswith("conda-meta/") and place != "CACHEDIR.TAG":
                mode = f"{path.lstat().st_mode & 0o100:o}"
                found[place] = f"-> {path.readlink()}" if path.is_symlink() else f"{mode} {path.read_text()}"
    return found


def notes(prefix: Path) -> dict[str, list[tuple[str, str | None]]]:
    """The paths of each package by its record, and where they belong."""
    records = (json.loads(path.read_bytes()) for path in (prefix / "conda-meta").glob("*.json"))
    return {
        record["name"]: sorted((path["_path"], path.get("original_path")) for path in record["paths_data"]["paths"])
        for record in records
    }


def by_rattler(user: User, packages: list[LockedPackage]) -> Path:
    prefix = user.home / "judge"
    archives = [package.url[len("file://") :] for package in packages]
    script = ROOT / "tests/support/rattler_link.py"
    subprocess.run([sys.executable, str(script), str(prefix), str(user.home / "judged"), *archives], check=True)
    return prefix


def create(user: User, prefix: Path, *arguments: str) -> tuple[str, str]:
    done = user.run("create", "-p", prefix, "--json", *arguments)
    return json.loads(done.stdout)["env_digest"], done.stderr


def test_the_prefix_is_the_one_that_py_rattler_makes(user: User, channel: dict[str, LockedPackage]) -> None:
    lock = user.write_lock(*channel.values())
    _, said = create(user, user.home / "env")
    judge = by_rattler(user, list(channel.values()))
    assert tree(user.home / "env") == tree(judge)
    mine, theirs = notes(user.home / "env"), notes(judge)
    assert {name: [path for path, _ in paths] for name, paths in mine.items()} == {
        name: [path for path, _ in paths] for name, paths in theirs.items()
    }
    assert {name for name, paths in mine.items() if any(original for _, original in paths)} == {
        name for name, paths in theirs.items() if any(original for _, original in paths)
    }
    assert "warning: six-e and six-a bring the same path: share/six; that of six-e is used" in said
    assert said.count("warning: ") == 11  # one for each pair, however many paths
    user.run("verify", "-p", user.home / "env", "-f", lock)


def test_every_later_create_comes_to_the_digest_of_a_fresh_one(user: User, channel: dict[str, LockedPackage]) -> None:
    prefix = user.home / "env"
    everything = set(channel)
    newer = Archive("six-e", files("six-e", "share/other"), version="2.0").write(user.home / "newer")
    steps: list[tuple[set[str], list[LockedPackage]]] = [
        (everything, []),
        (everything - {"six-e", "six-c", "noarch-c"}, []),  # winners leave, and give the paths back
        ({"python", "six-a", "six-d", "link-a", "noarch-a"}, []),  # nothing is shared but share/six
        (everything - {"six-e"}, [locked(newer)]),  # the winner's next version does not have the path
    ]
    for number, (names, more) in enumerate(steps):
        user.write_lock(*(channel[name] for name in sorted(names)), *more)
        digest, _ = create(user, prefix)
        fresh, _ = create(user, user.home / f"fresh-{number}", "--force")
        assert digest == fresh, f"step {number}"
        assert tree(prefix) == tree(user.home / f"fresh-{number}")
    # Again from what was kept unpacked, which must have learnt nothing of the other packages.
    assert create(user, user.home / "again")[0] == fresh
    (prefix / "share/six").write_text("altered")
    user.run("verify", "-p", prefix, code=1)
    assert create(user, prefix, "--repair")[0] == fresh


def test_directories_against_files_end_the_same_every_time(user: User) -> None:
    # py-rattler fails or forgets a file here, as the threads go; its rule is clear all the same: the last one wins.
    root = user.home / "channel"
    archives = [
        Archive("dir-a", files("dir-a", "x/y/z", "x/y/w", "x/v")),
        Archive("dir-b", files("dir-b", "x/y"), depends=("dir-a",)),
        Archive("dir-c", files("dir-c", "x"), depends=("dir-d",)),
        Archive("dir-d", files("dir-d", "x/y/z"), depends=("dir-b",)),
        Archive("dir-e", files("dir-e", "x/u/t"), depends=("dir-c",)),
    ]
    user.write_lock(*(locked(archive.write(root)) for archive in archives))
    digests = {create(user, user.home / f"env-{number}", "--force")[0] for number in range(3)}
    assert len(digests) == 1
    found = {path for path in tree(user.home / "env-0") if path.startswith("x")}
    assert found == {"x/u/t", "x/y/z", "x/y/w", "x/v"}
    assert (user.home / "env-0/x/y/z").read_text() == "of dir-d x/y/z\n"
    assert (user.home / "env-0/__clobbers__/dir-c/x").read_text() == "of dir-c x\n"
    user.run("verify", "-p", user.home / "env-0")
