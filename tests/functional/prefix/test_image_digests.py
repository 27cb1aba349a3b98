"""One lock is one image: two clones, two Pythons, two libraries of deflate, two days, two umasks, and one digest."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage
from tests.functional.prefix.conftest import ROOT, Channel, User
from tests.support.archives import Archive, File, locked
from tests.support.debian_tools import require
from tests.support.environments import make_environment
from tests.support.pythons import find_python

Python = tuple[LockedPackage, ...]
# What envtool needs, with nothing of this environment's.
NEEDED = [
    each.partition(";")[0].strip()
    for each in importlib.metadata.requires("envserve") or ()
    if re.search(r"extra == .envtool.", each)
]

# zlib-ng's module itself imports gzip, which has to have a zlib.
STAND_IN = """\
import importlib.machinery, importlib.util, os, sys
def load(name, spec):
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
others = [each for each in sys.path if os.path.abspath(each) != os.path.dirname(__file__)]
load("zlib", importlib.machinery.PathFinder.find_spec("zlib", others))
import gzip
loader = importlib.machinery.ExtensionFileLoader("zlib_ng", {!r})
gzip.zlib = sys.modules["zlib"] = load("zlib_ng", importlib.util.spec_from_loader("zlib_ng", loader))
gzip.zlib.ZLIB_RUNTIME_VERSION = gzip.zlib.ZLIB_VERSION = gzip.zlib.ZLIBNG_RUNTIME_VERSION
"""


def interpreter(version: str) -> Path:
    """Another Python of this machine's, with what envtool needs; skips where there is none."""
    return make_environment(NEEDED, interpreter=find_python(version))


def clone(place: Path) -> Path:
    """The working tree's envtool as if it were checked out elsewhere, with what an installation says of it."""
    for name in ("envtool", "templates"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    distribution = importlib.metadata.distribution("envserve")
    about = place / f"envserve-{distribution.version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(distribution.read_text("METADATA") or "")
    return place


@contextlib.contextmanager
def masked(umask: int) -> Iterator[None]:
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def make(
    user: User, python: Path, source: Path, output: Path, *before: str, **env: str
) -> tuple[dict[str, object], str]:
    own = {**user.env, "PYTHONPATH": str(source), "ENVTOOL_HOME": str(output.parent / "h" / output.name), **env}
    argv = [*before, str(python), "-m", "envtool", "image", "-o", str(output), "--json"]
    done = subprocess.run(argv, cwd=user.home, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_two_clones_pythons_days_and_umasks_make_one_digest(
    user: User, python: Python, hello: LockedPackage, channel: Channel, tmp_path: Path
) -> None:
    require("faketime")
    older, newer = interpreter("3.9"), interpreter("3.13")
    user.write_lock(*python, *channel.all, hello)
    one = clone(user.home / "a")
    other = clone(tmp_path / "a-clone-of-somebody-else")
    first, said = make(user, older, one, user.home / "one")
    assert "zlib" not in said
    with masked(0o077):
        second, _ = make(user, newer, other, user.home / "some-other-place", "faketime", "2031-03-04 05:06:07")
    assert first["digest"] == second["digest"]


def test_a_python_with_zlib_ng_makes_the_same_image_where_the_lock_has_a_python(
    user: User, python: Python, hello: LockedPackage, channel: Channel, tmp_path: Path
) -> None:
    if "zlib" in sys.builtin_module_names:
        pytest.skip("zlib is a part of this Python, so that nothing can stand in its place")
    own = make_environment([*NEEDED, "zlib-ng"])
    # As in distributions that build zlib-ng in zlib's place.
    (tmp_path / "ng").mkdir()
    (library,) = own.parent.parent.glob("lib/python3.*/site-packages/zlib_ng/zlib_ng.*.so")
    (tmp_path / "ng" / "zlib.py").write_text(STAND_IN.format(str(library)))
    source = f"{tmp_path}/ng{os.pathsep}{clone(user.home / 'a')}"
    user.write_lock(*python, *channel.all, hello)
    expected = user.run("image", "-o", user.home / "one").stdout.strip()
    made, said = make(user, own, Path(source), user.home / "two")
    assert made["digest"] == expected
    assert "zlib" not in said
    # Without a Python in the lock there is no other one to ask: that is said, and what layers unpack to is the same.
    words = File("".join(hashlib.sha256(b"%d" % (each % 700)).hexdigest() for each in range(1500)).encode())
    user.write_lock(locked(Archive("words", {"share/words": words}).write(tmp_path)))
    expected = user.run("image", "-o", user.home / "one").stdout.strip()
    made, said = make(user, own, Path(source), user.home / "two")
    assert made["digest"] != expected
    assert "on other machines layers get other digests" in said
    # Nothing is compressed again there, though.
    before = {path: path.stat().st_ino for path in (user.home / "two/blobs/sha256").iterdir()}
    assert make(user, own, Path(source), user.home / "two")[0]["digest"] == made["digest"]
    layers = [path for path in before if path.read_bytes().startswith(b"\x1f\x8b")]
    assert {path: path.stat().st_ino for path in layers} == {path: before[path] for path in layers} != {}
    # What zlib-ng compressed is not used again where zlib is at hand; what zlib compressed is used, unmarked.
    assert user.run("image", "-o", user.home / "two").stdout.strip() == expected
    made, said = make(user, own, Path(source), user.home / "two")
    assert made["digest"] == expected
    assert "zlib" not in said
