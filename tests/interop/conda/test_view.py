"""A real conda looks at an environment that envtool made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import rattler

from envtool.lockfile.conda_lock_v1 import LockedPackage
from tests.interop.conda.conftest import SPECS, Desk, builds, history, listed
from tests.support.real_conda import Conda

# Channels as locks name them, and what they are to a conda that nobody configured.
CHANNELS = [
    "https://conda.anaconda.org/conda-forge",
    "https://conda.anaconda.org/conda-forge/label/rc",
    "https://repo.anaconda.com/pkgs/main",
    "https://repo.anaconda.com/pkgs/r",
    "https://repo.anaconda.com/pkgs/free",
    "https://channels.example/team/stable",
    "http://127.0.0.1:8000",
    "file:///srv/channel",
]
NAMES = """
import json, sys
from conda.models.records import PackageRecord
for channel in json.load(sys.stdin):
    url = f"{channel}/linux-64/a-1-0.conda"
    print(PackageRecord(name="a", version="1", build="0", build_number=0, url=url, channel=url, fn="a-1-0.conda",
                        subdir="linux-64").dist_str())
"""


@pytest.fixture(scope="module")
def packages(desk: Desk) -> list[LockedPackage]:
    return desk.lock(*SPECS)


@pytest.fixture(scope="module")
def prefix(desk: Desk, packages: list[LockedPackage]) -> Path:
    desk.create(desk.user.home / "viewed", "--frozen")
    return desk.user.home / "viewed"


def test_conda_lists_what_the_lock_says(desk: Desk, prefix: Path, packages: list[LockedPackage]) -> None:
    assert listed(desk, prefix) == builds(packages)
    found = {each["name"]: each for each in desk.conda.json("list", "-p", prefix)}
    assert found["hello-world"]["channel"] == "pypi"
    assert found["hello-world"]["version"] == "1.0"
    assert len(found) == len(packages)


def test_py_rattler_sees_what_the_lock_says(prefix: Path, packages: list[LockedPackage]) -> None:
    records = [rattler.PrefixRecord.from_path(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]
    conda = {(package.name, package.version, package.sha256) for package in packages if package.manager == "conda"}
    assert {(each.name.normalized, str(each.version), each.sha256.hex()) for each in records} == conda
    for record in records:
        assert all((prefix / str(path)).exists() for path in record.files), record.name


# What py-rattler alone makes of the archives of a lock.
LINK = """
import asyncio, json, os, sys
import rattler
channel, prefix, cache, *urls = json.load(sys.stdin)
async def link():
    names = sorted({url.rpartition("/")[2].rsplit("-", 2)[0] for url in urls})
    gateway = rattler.Gateway(cache_dir=cache + "/repodata")
    found = await gateway.query([channel], ["linux-64", "noarch"], names, recursive=False)
    records = [each for part in found for each in part if each.url in urls]
    assert len(records) == len(urls)
    await rattler.install(records, target_prefix=prefix, cache_dir=cache + "/pkgs", show_progress=False)
asyncio.run(link())
os._exit(0)
"""


def test_a_prefix_of_py_rattler_is_the_same_to_conda(
    desk: Desk, prefix: Path, packages: list[LockedPackage], tmp_path: Path
) -> None:
    theirs = desk.user.home / "theirs"
    conda = [each for each in packages if each.manager == "conda"]
    request = [desk.channel, str(theirs), str(tmp_path), *(each.url for each in conda)]
    subprocess.run([sys.executable, "-c", LINK], input=json.dumps(request), text=True, check=True)
    assert listed(desk, theirs) == listed(desk, prefix) == builds(packages)
    before = {path: path.lstat().st_mtime_ns for path in prefix.rglob("*")}
    for each in (prefix, theirs):
        answer = desk.solve("install", each, "--dry-run", *SPECS)
        assert answer["message"] == "All requested packages already installed."
    assert {path: path.lstat().st_mtime_ns for path in prefix.rglob("*")} == before


def test_conda_gives_the_urls_and_hashes_of_the_lock(desk: Desk, prefix: Path, packages: list[LockedPackage]) -> None:
    shown = desk.conda.run("list", "-p", prefix, "--explicit", "--md5").stdout.split("@EXPLICIT\n")[1]
    assert sorted(shown.split()) == sorted(
        f"{package.url}#{package.md5}" for package in packages if package.manager == "conda"
    )


def test_conda_tells_one_revision(desk: Desk, prefix: Path, packages: list[LockedPackage]) -> None:
    (revision,) = desk.conda.json("list", "-p", prefix, "--revisions")
    assert len(revision["install"]) == len(builds(packages))
    assert all(f"{name}-{version}-{build}" in str(revision["install"]) for name, version, build in builds(packages))
    assert [revision[each] for each in ("remove", "upgrade", "downgrade")] == [[], [], []]


def test_conda_finds_nothing_wrong(desk: Desk, prefix: Path) -> None:
    said = desk.conda.run("doctor", "-v", "-p", prefix).stdout
    assert "There are no packages with missing files." in said
    assert "There are no packages with altered files." in said
    assert "environments.txt file: ✅" in said


def test_conda_finds_what_was_changed(desk: Desk, prefix: Path) -> None:
    paths = ["share/data", "lib/libx.so.1", "bin/pure", "bin/tool"]
    before = {path: (prefix / path).read_bytes() for path in paths}
    try:
        (prefix / "share/data").write_bytes(b"other")
        (prefix / "lib/libx.so.1").write_bytes(b"other")
        (prefix / "bin/pure").unlink()
        (prefix / "bin/tool").unlink()
        said = desk.conda.run("doctor", "-v", "-p", prefix).stdout
    finally:
        for path, content in before.items():
            (prefix / path).write_bytes(content)
            (prefix / path).chmod(0o755 if path != "share/data" else 0o644)
    altered, missing = said.split("Altered Files:")[1].split("Missing Files:")
    assert "data-1.0-h1_0:\n  share/data\n" in altered
    assert "library-1.0-h1_0:\n  lib/libx.so.1\n" in altered
    assert "pure-1.0-h1_0:\n  bin/pure" in missing
    assert "tool-1.0-h1_0:\n  bin/tool" in missing
    desk.user.run("verify", "-p", prefix)


def test_no_record_names_a_directory_that_is_gone(prefix: Path) -> None:
    for path in (prefix / "conda-meta").glob("*.json"):
        assert ".scratch" not in path.read_text(), path.name


def test_conda_activates_with_the_variables_of_the_lock(desk: Desk, prefix: Path) -> None:
    digest = json.loads(desk.user.run("digest", "-p", prefix, "--json").stdout)["env_digest"]
    expected = {"ANSWER": "42", "SPACED": "a b", "ENVSERVE_ENV_DIGEST": digest}
    assert desk.conda.json("env", "config", "vars", "list", "-p", prefix) == expected
    # Not `conda run`, whose wrapper is a shell script that conda-lock does not bring along.
    script = desk.conda.run("shell.posix", "activate", prefix).stdout
    show = 'hello; printf "%s\\n" "$ANSWER" "$SPACED" "$ENVSERVE_ENV_DIGEST" "$CONDA_PREFIX"'
    env = {"PATH": "/usr/bin:/bin", "HOME": str(desk.user.home)}
    shown = subprocess.run(["/bin/sh", "-c", f"{script}\n{show}"], env=env, capture_output=True, text=True)
    assert shown.stdout.splitlines() == ["hello", *expected.values(), str(prefix)], shown.stderr


def test_the_mark_of_a_frozen_environment(desk: Desk, prefix: Path) -> None:
    # CEP 22 is younger than this conda, which takes no notice of the mark: it must not be in its way either.
    assert "change the lock" in json.loads((prefix / "conda-meta" / "frozen").read_text())["message"]
    answer = desk.solve("install", prefix, "--dry-run", "more")
    assert [each["name"] for each in answer["actions"]["LINK"]] == ["more"]


def test_the_names_in_our_history_are_those_that_conda_would_write(
    desk: Desk, prefix: Path, packages: list[LockedPackage], tmp_path: Path
) -> None:
    ours = [line[1:] for line in history(prefix)[0].splitlines() if line.startswith("+")]
    assert sorted(ours) == sorted(desk.conda.run("list", "-p", prefix, "--canonical").stdout.split())[: len(ours)]
    assert names_in_history(tmp_path) == names_of_conda(desk.conda)


def names_in_history(tmp_path: Path) -> list[str]:
    from envtool.prefix.conda_meta import conda_packages

    (tmp_path / "conda-meta").mkdir()
    for number, channel in enumerate(CHANNELS):
        url = f"{channel}/linux-64/a-1-0.conda"
        record = {"name": "a", "version": "1", "build": "0", "url": url, "sha256": "0", "files": []}
        (tmp_path / f"conda-meta/{number}.json").write_text(json.dumps({**record, "paths_data": {"paths": []}}))
    return [package.description for package in conda_packages(tmp_path)]


def names_of_conda(conda: Conda) -> list[str]:
    argv = [str(conda.program.with_name("python")), "-c", NAMES]
    done = subprocess.run(argv, env=conda.env, input=json.dumps(CHANNELS), capture_output=True, text=True, check=True)
    return done.stdout.split()
