"""`envtool create` as a user runs it, on small archives."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from envtool.lockfile.model import LockedPackage
from tests.functional.prefix.conftest import BINARY, TEXT, Channel, User
from tests.support.archives import PLACEHOLDER, Archive, File, locked


def digest_of(user: User, prefix: Path) -> str:
    return json.loads(user.run("create", "-p", prefix, "--json").stdout)["env_digest"]


def snapshot(prefix: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in prefix.rglob("*") if path.is_file() and path.name != ".envtool.lock")
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in files}


def test_every_file_is_there_with_its_prefix_mode_and_link(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all)
    prefix = user.home / "env"
    user.run("create", "-p", prefix)
    own = str(prefix).encode()
    assert (prefix / "bin/tool").read_bytes() == TEXT.replace(PLACEHOLDER.encode(), own)
    binary = (prefix / "lib/tool.so").read_bytes()
    assert len(binary) == len(BINARY)
    assert binary.startswith(b"\x7fELF" + own + b"/lib\0")
    assert own + b"/a:" + own + b"/b\0" in binary
    assert binary.endswith(b"end\0" * 5)
    assert os.access(prefix / "bin/tool", os.X_OK)
    assert (prefix / "lib/libx.so").readlink() == Path("libx.so.1")
    assert (prefix / "share/old.txt").read_text() == "old\n"


def test_a_second_create_changes_nothing_and_says_so(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all)
    prefix = user.home / "env"
    user.run("create", "-p", prefix)
    before = snapshot(prefix)
    assert "nothing to do" in user.run("create", "-p", prefix).stderr
    assert snapshot(prefix) == before


def test_what_was_just_proven_is_neither_hashed_nor_read_again(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all)
    told = user.run("create", "-p", user.home / "env").stderr
    assert told.count("fetch and prove") == 1
    assert "read what archives and wheels hold" not in told


def test_what_nobody_brought_goes_with_the_next_change_of_the_lock(user: User, channel: Channel) -> None:
    prefix = user.home / "env"
    user.write_lock(*channel.all)
    digest = digest_of(user, user.home / "untouched")
    user.write_lock(channel.tool, channel.library)
    user.run("create", "-p", prefix)
    extra = [prefix / "share/notes.txt", prefix / "new/deep/link"]
    extra[0].write_text("mine")
    extra[1].parent.mkdir(parents=True)
    extra[1].symlink_to("nowhere")
    user.write_lock(*channel.all)
    foreseen = json.loads(user.run("create", "-p", prefix, "--dry-run", "--json").stdout)["delete"]
    assert foreseen == ["new/deep/link", "share/notes.txt"]
    assert "2 files deleted" in user.run("create", "-p", prefix).stderr
    assert not (prefix / "new").exists()
    assert digest_of(user, prefix) == digest
    user.run("verify", "-p", prefix)


def test_the_env_digest_is_the_same_in_every_directory(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all)
    first = digest_of(user, user.home / "env")
    second = digest_of(user, user.home / "another" / "and-a-longer" / "place")
    assert first == second
    assert user.run("digest", "-p", user.home / "env").stdout.strip() == first
    user.write_lock(channel.tool, channel.library)
    assert digest_of(user, user.home / "env") != first


def test_what_conda_reads_is_there(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all, envtool_match_specs=json.dumps({"linux-64": ["library"]}))
    prefix = user.home / "env"
    user.run("create", "-p", prefix, "--frozen")
    assert str(prefix) in (user.home / ".conda/environments.txt").read_text().splitlines()
    history = (prefix / "conda-meta/history").read_text()
    assert "/linux-64::tool-1.0-h1_0" in history
    assert "# update specs: ['library']" in history
    record = json.loads((prefix / "conda-meta/tool-1.0-h1_0.json").read_text())
    assert record["url"] == channel.tool.url
    assert "message" in json.loads((prefix / "conda-meta/frozen").read_text())


def test_a_changed_lock_changes_only_what_it_must(user: User, channel: Channel, tmp_path: Path) -> None:
    user.write_lock(*channel.all)
    prefix = user.home / "env"
    user.run("create", "-p", prefix)
    kept = (prefix / "lib/libx.so.1").stat()
    newer = locked(Archive("tool", {"bin/tool2": File(b"two\n", 0o755)}, version="2.0").write(tmp_path / "newer"))
    user.write_lock(newer, channel.library)
    # The archives of what stays are not needed again.
    shutil.rmtree(user.home / "envtool/cache/sha256")
    dry = user.run("create", "-p", prefix, "--dry-run").stdout
    assert "install  conda  tool 2.0" in dry
    assert "remove   conda  old 1.0" in dry
    assert "library" not in dry
    assert "download 0 B in 0 files" not in dry
    assert "disk     about" in dry
    user.run("create", "-p", prefix)
    assert (prefix / "bin/tool2").exists()
    assert not (prefix / "bin/tool").exists()
    assert not (prefix / "share/old.txt").exists()
    assert (prefix / "lib/libx.so.1").stat().st_ino == kept.st_ino
    user.run("verify", "-p", prefix)
    removed = [line for line in (prefix / "conda-meta/history").read_text().splitlines() if line.startswith("-")]
    assert any(line.endswith("::old-1.0-h1_0") for line in removed)


def test_a_damaged_archive_is_named_and_nothing_is_touched(user: User, channel: Channel, tmp_path: Path) -> None:
    archive = tmp_path / "linux-64" / channel.path(channel.tool).name
    archive.parent.mkdir()
    data = bytearray(channel.path(channel.tool).read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    user.write_lock(locked(archive, sha256=channel.tool.sha256), channel.library)
    prefix = user.home / "env"
    error = user.run("create", "-p", prefix, code=3).stderr
    assert archive.name in error
    assert f"sha256:{channel.tool.sha256}" in error
    assert hashlib.sha256(data).hexdigest() in error
    assert not (prefix / "lib").exists()
    user.run("run", "-p", prefix, "--", "true", code=3)


def test_an_archive_whose_own_list_is_wrong_is_judged_by_its_bytes(user: User, tmp_path: Path) -> None:
    liar = Archive("liar", {"share/liar": File(b"truth\n")}, lies={"share/liar": "0" * 64})
    user.write_lock(locked(liar.write(tmp_path)))
    user.run("create", "-p", user.home / "env")
    assert (user.home / "env/share/liar").read_bytes() == b"truth\n"
    assert json.loads(user.run("verify", "-p", user.home / "env", "--json").stdout)["findings"] == []


@pytest.mark.parametrize("name", ["conda-meta/python-3.9.json", "thesis.tex"])
def test_a_directory_that_is_not_ours_is_refused(user: User, channel: Channel, name: str) -> None:
    user.write_lock(channel.tool)
    prefix = user.home / "env"
    precious = prefix / name
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    assert "was not made by envtool" in user.run("create", "-p", prefix, code=3).stderr
    assert "was not made by envtool" in user.run("remove", "-p", prefix, "--yes", code=3).stderr
    assert [path for path in prefix.rglob("*") if path.is_file()] == [precious]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 100, "is too long"),
        *((f"my{one}env", "in it, which the scripts of packages cannot have") for one in " \n'\"\\:\x01\udcff"),
    ],
)
def test_a_path_that_a_script_cannot_name_is_refused(user: User, channel: Channel, name: str, says: str) -> None:
    user.write_lock(channel.tool)
    assert says in user.run("create", "-p", user.home / name, code=3).stderr
    assert not (user.home / name).exists()


def test_an_environment_that_stands_in_such_a_path_can_be_removed(user: User, channel: Channel) -> None:
    user.write_lock(channel.tool)
    user.run("create", "-p", user.home / "env")
    (user.home / "env").rename(user.home / "o'env")
    assert "scripts of packages cannot have" in user.run("create", "-p", user.home / "o'env", "--force", code=3).stderr
    user.run("remove", "-p", user.home / "o'env", "--yes")
    assert not (user.home / "o'env").exists()


def test_in_a_path_of_all_other_characters_python_and_pip_work(user: User, python: tuple[LockedPackage, ...]) -> None:
    user.write_lock(*python)
    prefix = user.home / "a;b&c$d`e`#%s[*]{?}(<>)|!~+,=@^漢-ü"
    user.run("create", "-p", prefix)
    asked = "import sys, sysconfig; print(sys.prefix, sysconfig.get_config_var('BINDIR'))"
    assert user.run("run", "-p", prefix, "--", "python", "-c", asked).stdout == f"{prefix} {prefix}/bin\n"
    assert str(prefix) in user.run("run", "-p", prefix, "--", "pip", "--version").stdout
    user.run("verify", "-p", prefix)


def test_no_lock_yet_gives_a_hint(user: User) -> None:
    error = user.run("create", "-p", user.home / "env", code=3).stderr
    assert "conda-lock.yml not found" in error
    assert "hint: envtool lock" in error


def test_an_edit_in_one_environment_reaches_no_other(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all)
    for name in ("one", "two"):
        user.run("create", "-n", name)
    one, two = (user.home / "envtool/envs" / name for name in ("one", "two"))
    with (one / "lib/libx.so.1").open("ab") as file:
        file.write(b"edited in place")
    whole = (two / "lib/libx.so.1").read_bytes()
    assert (one / "lib/libx.so.1").read_bytes() == whole + b"edited in place"
    user.run("verify", "-n", "one", code=1)
    user.run("verify", "-n", "two")
    shutil.rmtree(two)
    user.run("create", "-n", "two")
    user.run("verify", "-n", "two")
    assert (two / "lib/libx.so.1").read_bytes() == whole


def test_what_the_machine_lacks_is_said_before_anything_is_fetched(user: User, channel: Channel) -> None:
    needs = replace(channel.tool, dependencies={"__cuda": ">=12.1"}, url="http://127.0.0.1:9/linux-64/never.conda")
    user.write_lock(needs)
    error = user.run("create", "-p", user.home / "env", code=3, CONDA_OVERRIDE_CUDA="11.8").stderr
    assert "tool needs __cuda >=12.1; this machine's driver supports CUDA up to 11.8: too old" in error
    assert "hint:" in error
    user.write_lock(replace(needs, url=channel.tool.url))
    user.run("create", "-p", user.home / "env", CONDA_OVERRIDE_CUDA="12.4")


def test_a_platform_or_category_that_the_lock_lacks(user: User, channel: Channel) -> None:
    user.write_lock(channel.tool)
    error = user.run("create", "-p", user.home / "env", "--platform", "osx-arm64", code=3).stderr
    assert "nothing for osx-arm64; it has linux-64" in error
    assert "no category dev" in user.run("create", "-p", user.home / "env", "--category", "dev", code=3).stderr


def test_two_creates_of_one_prefix_wait_for_each_other(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all)
    prefix = user.home / "env"
    both = [user.start("create", "-p", prefix) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("nothing to do" in output for output in outputs) == 1
    user.run("verify", "-p", prefix)


def test_many_creates_with_one_cache(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all)
    many = [user.start("create", "-n", f"env{i}") for i in range(6)]
    outputs = [process.communicate(timeout=120)[1] for process in many]
    assert [process.returncode for process in many] == [0] * 6, outputs
    found = json.loads(user.run("list", "--json").stdout)
    assert len(found) == 6
    assert len({each["env_digest"] for each in found}) == 1


@pytest.fixture
def small_disk(user: User) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = user.home / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_touched(
    user: User, channel: Channel, small_disk: Path, tmp_path: Path
) -> None:
    big = locked(Archive("big", {"share/big": File(b"\0" * 5_000_000)}).write(tmp_path))
    user.write_lock(channel.tool)
    user.run("create", "-p", small_disk / "env")
    user.write_lock(channel.tool, big)
    error = user.run("create", "-p", small_disk / "env", code=3).stderr
    assert "has too little room: about 5.6 MB are needed" in error
    user.write_lock(channel.tool)
    user.run("verify", "-p", small_disk / "env")
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    user.write_lock(channel.tool, big)
    user.run("create", "-p", small_disk / "env")
    user.run("verify", "-p", small_disk / "env")


def test_a_disk_that_fills_up_meanwhile_leaves_a_prefix_that_a_rerun_makes_whole(
    user: User, channel: Channel, small_disk: Path, tmp_path: Path
) -> None:
    # Small files take whole pages of this file system, which no sum of sizes foresees.
    many = locked(Archive("many", {f"share/{i}": File(b"x") for i in range(1500)}).write(tmp_path))
    user.write_lock(channel.tool, many)
    error = user.run("create", "-p", small_disk / "env", code=3).stderr
    assert "No space left on device" in error
    assert "is not whole" in user.run("run", "-p", small_disk / "env", "--", "true", code=3).stderr
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    user.run("create", "-p", small_disk / "env")
    user.run("verify", "-p", small_disk / "env")


def test_offline_takes_the_cache_and_names_what_is_not_there(user: User, channel: Channel) -> None:
    user.write_lock(channel.tool)
    user.run("create", "-n", "one")
    user.run("create", "-n", "two", "--offline")
    user.write_lock(*channel.all)
    error = user.run("create", "-n", "three", "--offline", code=3).stderr
    assert "library-1.0-h1_0.conda" in error
    assert "old-1.0-h1_0.tar.bz2" in error
    assert "tool-1.0" not in error


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.nightly)])
def test_a_create_killed_at_any_moment_converges(user: User, channel: Channel, tmp_path: Path, kills: int) -> None:
    files = {f"share/many/{i}": File(bytes([i % 256]) * 5000) for i in range(1500)}
    many = locked(Archive("many", files).write(tmp_path))
    user.write_lock(*channel.all, many)
    expected = digest_of(user, user.home / "whole")
    started = time.monotonic()
    user.run("create", "-p", user.home / "timed")
    took_s = time.monotonic() - started
    prefix = user.home / "env"
    for i in range(kills):
        process = user.start("create", "-p", prefix, *(["--force"] if i % 2 else []))
        time.sleep(took_s * (0.25 + 0.75 * i / kills))
        user.kill(process)
        if (prefix / "conda-meta/.incomplete").exists():
            assert "is not whole" in user.run("run", "-p", prefix, "--", "true", code=3).stderr
    assert digest_of(user, prefix) == expected
    user.run("verify", "-p", prefix)
    assert not (prefix / "conda-meta/.scratch").exists()
