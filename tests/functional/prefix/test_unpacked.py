"""Unpacked packages in the cache: used where they are right, made anew where not, never shared with a prefix."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage
from tests.functional.prefix.conftest import Channel, User
from tests.support.archives import Archive, File, locked

LARGE = bytes(range(256)) * 2000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> LockedPackage:
    files = {"lib/large.so": File(LARGE, 0o755), "share/small.txt": File(b"small\n")}
    return locked(Archive("large", files).write(tmp_path_factory.mktemp("large")))


def store(user: User) -> Path:
    return user.home / "envtool/cache/unpacked" / str(os.geteuid())


def image_of(user: User, name: str) -> Path:
    """The directory of the image that has a file of this path."""
    return next(each.parent for each in store(user).glob("*/index") if name in each.read_text(errors="replace"))


def create(user: User, prefix: Path, *arguments: str, **env: str) -> tuple[str, str]:
    """Make an environment; its digest, and what was said."""
    done = user.run("create", "-p", prefix, "--json", *arguments, **env)
    return json.loads(done.stdout)["env_digest"], done.stderr


def conda_meta(prefix: Path) -> list[str]:
    """What conda reads, without the prefix and the hashes that depend on it."""
    texts = (path.read_text() for path in sorted((prefix / "conda-meta").glob("*.json")))
    return [re.sub(r'"sha256_in_prefix": "\w+"', "", text.replace(str(prefix), "PREFIX")) for text in texts]


def test_a_second_environment_needs_no_archive(user: User, channel: Channel, large: LockedPackage) -> None:
    user.write_lock(*channel.all, large)
    digest, said = create(user, user.home / "one")
    assert "unpacked packages" not in said.replace("keep what was unpacked", "")
    shutil.rmtree(user.home / "envtool/cache/sha256")
    again, said = create(user, user.home / "a-longer-name", "--offline")
    assert "place 4 unpacked packages" in said
    assert again == digest
    one, two = (conda_meta(user.home / name) for name in ("one", "a-longer-name"))
    assert one == two
    shared = {path.stat().st_ino for path in store(user).rglob("*")} & {
        path.stat().st_ino for path in (user.home / "one").rglob("*")
    }
    assert not shared


def flip(path: Path) -> None:
    """Change one byte, and put back all that a user can put back."""
    status = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a small file": lambda image: flip(image / "pack"),
    "a large file": lambda image: flip(next(each for each in image.iterdir() if len(each.name) == 64)),
    "half a file": lambda image: cut(next(each for each in image.iterdir() if len(each.name) == 64)),
    "a file that is gone": lambda image: (image / "pack").unlink(),
    "the index": lambda image: flip(image / "index"),
    "half an index": lambda image: cut(image / "index"),
    "no index": lambda image: (image / "index").unlink(),
    "an empty index": lambda image: (image / "index").write_text(""),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_image_is_never_installed_and_is_made_anew(user: User, large: LockedPackage, name: str) -> None:
    user.write_lock(large)
    digest, _ = create(user, user.home / "one")
    DAMAGE[name](image_of(user, "lib/large.so"))
    again, said = create(user, user.home / "two")
    assert again == digest
    assert "place 1" not in said
    assert (user.home / "two/lib/large.so").read_bytes() == LARGE
    again, said = create(user, user.home / "three")
    assert again == digest
    assert "place 1" in said


def test_a_cache_that_was_moved_is_proven_once_and_used(user: User, large: LockedPackage) -> None:
    user.write_lock(large)
    digest, _ = create(user, user.home / "one")
    cache = user.home / "envtool/cache"
    shutil.copytree(cache, user.home / "moved")
    shutil.rmtree(cache)
    (user.home / "moved").rename(cache)
    before = (image_of(user, "lib/large.so") / "index").read_bytes()
    again, said = create(user, user.home / "two")
    assert again == digest
    assert "place 1" in said
    sealed = (image_of(user, "lib/large.so") / "index").read_bytes()
    assert sealed != before
    create(user, user.home / "three")
    assert (image_of(user, "lib/large.so") / "index").read_bytes() == sealed


def test_a_store_that_others_may_write_to_is_not_used(user: User, large: LockedPackage) -> None:
    user.write_lock(large)
    create(user, user.home / "one")
    store(user).chmod(0o777)
    _, said = create(user, user.home / "two")
    assert "place 1" not in said
    user.run("verify", "-p", user.home / "two")


def test_a_conda_package_whose_record_has_the_hash_of_another_script(user: User, tmp_path: Path) -> None:
    # As pip wrote it when the package was built; linking makes the script anew.
    record = b"x.py,,\n../../../bin/x,sha256=AAAA,200\nx-1.0.dist-info/RECORD,,\n"
    name = "lib/python3.9/site-packages/x-1.0.dist-info/RECORD"
    user.write_lock(locked(Archive("x", {name: File(record), "bin/x": File(b"x", 0o755)}).write(tmp_path)))
    digest, _ = create(user, user.home / "one")
    again, said = create(user, user.home / "two")
    assert "place 1" in said
    assert again == digest
    assert (user.home / "two" / name).read_bytes() == record
    user.run("verify", "-p", user.home / "two")


def test_what_nobody_used_for_long_is_removed(user: User, channel: Channel, large: LockedPackage) -> None:
    user.write_lock(channel.tool, large)
    digest, _ = create(user, user.home / "one")
    index = image_of(user, "lib/large.so") / "index"
    os.utime(index, (time.time() - 40 * 86_400,) * 2)
    sizes = json.loads(user.run("cache", "list", "--json").stdout)["size_bytes"]
    assert sizes["unpacked"] > len(LARGE)
    for options, expected in ((["--dry-run"], 1), ([], 1), ([], 0), (["--all"], 1)):
        done = json.loads(user.run("cache", "prune", *options, "--json").stdout)
        assert done["packages"] == expected, options
    assert not list(store(user).iterdir())
    user.run("verify", "-p", user.home / "one")
    assert create(user, user.home / "two")[0] == digest


def test_a_forced_create_looks_at_no_image(user: User, large: LockedPackage) -> None:
    user.write_lock(large)
    digest, _ = create(user, user.home / "one")
    made = image_of(user, "lib/large.so").stat().st_ctime_ns  # the number of a removed directory is given out again
    again, said = create(user, user.home / "one", "--force")
    assert again == digest
    assert "place 1" not in said
    assert image_of(user, "lib/large.so").stat().st_ctime_ns != made


def test_nothing_is_kept_where_it_is_not_wanted(user: User, large: LockedPackage) -> None:
    user.write_lock(large)
    create(user, user.home / "one", ENVTOOL_UNPACKED="never")
    assert not store(user).exists()
    error = user.run("create", "-p", user.home / "two", code=3, ENVTOOL_UNPACKED="sometimes").stderr
    assert "ENVTOOL_UNPACKED" in error


def test_a_file_that_two_packages_bring_is_no_reason_for_a_wrong_image(user: User, tmp_path: Path) -> None:
    first, second = (
        locked(Archive(name, {"share/both": File(name.encode()), f"share/{name}": File(b"x")}).write(tmp_path / name))
        for name in ("first", "second")
    )
    for name, package in (("one", first), ("two", second)):
        user.write_lock(package)
        create(user, user.home / name)
    user.write_lock(first, second)
    done = user.start("create", "-p", user.home / "both")
    _, said = done.communicate(timeout=60)
    user.write_lock(first)
    create(user, user.home / "again")
    assert (user.home / "again/share/both").read_text() == "first", said


def test_a_create_killed_while_it_keeps_an_image(user: User, tmp_path: Path) -> None:
    package = locked(Archive("huge", {f"lib/{i}.so": File(LARGE + bytes([i])) for i in range(120)}).write(tmp_path))
    user.write_lock(package)
    process = user.start("create", "-p", user.home / "one")
    while not list(store(user).glob("envtool-scratch-*/*")) and process.poll() is None:
        time.sleep(0.001)
    user.kill(process)
    if not list(store(user).glob("envtool-scratch-*")):
        pytest.skip("it was quicker than we")
    for each in store(user).glob("envtool-scratch-*"):
        os.utime(each, (0, 0))  # what is young may be about to be locked
    digest, said = create(user, user.home / "two")
    assert "place 1" not in said
    assert [each.name.startswith("envtool-scratch-") for each in store(user).iterdir()] == [False]
    again, said = create(user, user.home / "three")
    assert again == digest
    assert "place 1" in said
    user.run("verify", "-p", user.home / "one")


def test_many_processes_keep_the_same_images(user: User, channel: Channel, large: LockedPackage) -> None:
    user.write_lock(*channel.all, large)
    many = [user.start("create", "-n", f"env{i}") for i in range(4)]
    outputs = [process.communicate(timeout=120)[1] for process in many]
    assert [process.returncode for process in many] == [0] * 4, outputs
    assert len(list(store(user).iterdir())) == 4
    assert len({each["env_digest"] for each in json.loads(user.run("list", "--json").stdout)}) == 1


@pytest.fixture(params=["xfs", "btrfs"])
def cloning_disk(user: User, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A real file system that can share blocks between files."""
    image, disk = user.home / "image", user.home / "disk"
    with image.open("wb") as file:
        file.truncate(400 << 20)
    disk.mkdir()
    make = [f"mkfs.{request.param}", "-q", str(image)]
    if shutil.which(make[0]) is None or subprocess.run(make, capture_output=True).returncode:
        pytest.skip(f"{make[0]} is not there")
    if subprocess.run(["mount", "-o", "loop", str(image), str(disk)], capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_where_the_file_system_clones_no_room_is_taken_and_nothing_is_shared(
    user: User, cloning_disk: Path, tmp_path: Path
) -> None:
    size_bytes = 40 << 20
    block = os.urandom(1 << 20)
    package = locked(Archive("huge", {"lib/huge.so": File(block * (size_bytes >> 20))}).write(tmp_path))
    user.write_lock(package)
    env = {"ENVTOOL_CACHE_DIR": str(cloning_disk / "cache"), "ENVTOOL_UNPACKED": "reflink"}
    digest, _ = create(user, cloning_disk / "one", **env)
    os.sync()
    free_bytes = shutil.disk_usage(cloning_disk).free
    again, said = create(user, cloning_disk / "two", **env)
    os.sync()
    assert again == digest
    assert "place 1" in said
    assert free_bytes - shutil.disk_usage(cloning_disk).free < size_bytes // 4
    with (cloning_disk / "two/lib/huge.so").open("r+b") as file:
        file.write(b"edited")
    user.run("verify", "-p", cloning_disk / "one", **env)
    assert create(user, cloning_disk / "three", **env)[0] == digest
