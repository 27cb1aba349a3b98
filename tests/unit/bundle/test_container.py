"""Bundles that are damaged, cut off, altered or foreign: each is refused, and the file that is wrong is named."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envtool.bundle import bundle as bundles
from envtool.bundle.bundle import verify
from envtool.bundle.format import LOCKFILE, STARTER, Bundle, File, Manifest, open_bundle, path_of
from envtool.console import ProgressDisplay
from envtool.errors import BundleError


@dataclass(frozen=True)
class Made:
    root: Path
    manifest: Manifest
    sources: dict[str, Path]
    contents: dict[str, bytes]

    def write(self, name: str, signature: bytes | None = None, *, as_directory: bool = False) -> Path:
        target = self.root / name
        write = bundles.write_directory if as_directory else bundles.write_file
        with ProgressDisplay().task("write") as task:
            write(target, self.manifest, signature, self.sources, task)
        return target


def prove(bundle: Bundle) -> None:
    with ProgressDisplay().task("read") as task:
        verify(bundle, task)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("bundle")
    long_name = "a-very-long-name-" * 6 + "1.0-h1_0.conda"
    archives = {f"one-{i}.conda": bytes([i]) * (700 * i + 1) for i in range(3)} | {long_name: b"long" * 400}
    contents = {LOCKFILE: b"version: 1\n", STARTER: bundles.starter()}
    contents |= {path_of(name, hashlib.sha256(data).hexdigest()): data for name, data in archives.items()}
    sources = {}
    for number, (path, data) in enumerate(contents.items()):
        sources[path] = root / f"source-{number}"
        sources[path].write_bytes(data)
    files = {path: File(hashlib.sha256(data).hexdigest(), len(data)) for path, data in contents.items()}
    return Made(root, Manifest("tests", ("linux-64",), ("main",), files, {}), sources, contents)


@pytest.mark.parametrize("as_directory", [False, True])
def test_what_was_written_is_read(made: Made, as_directory: bool) -> None:
    bundle = open_bundle(made.write(f"whole-{as_directory}", b"s" * 64, as_directory=as_directory))
    assert (bundle.manifest, bundle.signature) == (made.manifest, b"s" * 64)
    assert {path: bundle.read(path) for path in bundle.places} == made.contents
    prove(bundle)


def test_the_file_is_a_tar_of_the_directory_and_python_runs_it(made: Made) -> None:
    file, directory = made.write("form.pyz"), made.write("form", as_directory=True)
    with tarfile.open(file) as tar:
        inside = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert inside == {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    done = subprocess.run([sys.executable, "-I", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: python3 form.pyz" in done.stderr
    done = subprocess.run([sys.executable, "-I", str(file), "-n", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert f"{file} has no envtool for this machine: expected one of none at all" in done.stderr


def test_python_runs_what_is_larger_than_a_zip_archive_may_be(tmp_path: Path) -> None:
    path = tmp_path / "large.pyz"
    with path.open("wb") as file:
        file.seek(5 << 30)  # a hole, which takes no room on the disk
        file.write(bundles.starter())
    done = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, "usage: python3 large.pyz" in done.stderr) == (2, True), done.stderr


def test_twice_the_same_bytes(made: Made) -> None:
    assert made.write("first.pyz").read_bytes() == made.write("second.pyz").read_bytes()


def test_a_directory_keeps_what_is_right_and_loses_what_is_not_in_it(made: Made) -> None:
    directory = made.write("kept", b"s" * 64, as_directory=True)
    stray = directory / "files" / ("0" * 64) / "old.conda"
    stray.parent.mkdir()
    stray.write_bytes(b"old")
    damaged = next(path for path in made.contents if path.startswith("files/"))
    (directory / damaged).write_bytes(b"damaged")
    times = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    made.write("kept", as_directory=True)
    changed = {str(p.relative_to(directory)) for p, time_ns in times.items()
               if not p.exists() or p.stat().st_mtime_ns != time_ns}  # fmt: skip
    assert changed == {damaged, "manifest.sig", str(stray.relative_to(directory))}
    prove(open_bundle(directory))


@pytest.mark.parametrize("content", [{}, {"note.txt": "mine"}, {"manifest.json": '{"name": "a web page"}'}])
def test_a_directory_of_others_is_left_alone(tmp_path: Path, content: dict[str, str]) -> None:
    (tmp_path / "files" / "mine").mkdir(parents=True)
    for name, text in {**content, "files/mine/x": "x"}.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BundleError, match="holds something other than a bundle"):
        bundles.refuse_foreign(tmp_path, as_directory=True)
    with pytest.raises(BundleError, match="is a directory already"):
        bundles.refuse_foreign(tmp_path, as_directory=False)


def flipped(path: str) -> Callable[[Made, bytes], bytes]:
    def alter(made: Made, data: bytes) -> bytes:
        place = open_bundle(made.write("probe.pyz")).places[path.format(*made.contents)]
        return data[: place.offset] + bytes([data[place.offset] ^ 1]) + data[place.offset + 1 :]

    return alter


@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        (lambda made, data: b"", "is not a whole bundle: empty file"),
        (lambda made, data: data[:-1], "does not end with its install.pyz"),
        (lambda made, data: data[: len(data) // 2], "whole bundle|does not end with|ends in the middle"),
        (lambda made, data: data[:700], "ends in the middle of manifest.json"),
        (lambda made, data: data + b"x", "does not end with its install.pyz"),
        (lambda made, data: data.replace(b"sys.exit(2)", b"sys.exit(0)"), "install.pyz in .* is damaged"),
        (flipped("{0}"), "conda-lock.yml in .* is damaged or altered"),
        (flipped("{3}"), "one-1.conda in .* is damaged or altered"),
        (lambda made, data: data.replace(b"envtool-bundle-1", b"envtool-bundle-2"), "found 'envtool-bundle-2'"),
        (lambda made, data: b"#!/bin/sh\n" * 1000, "is not a whole bundle"),
    ],
    ids=["empty", "last byte", "half", "beginning", "longer", "starter", "lock", "archive", "format", "foreign"],
)
def test_what_is_not_whole_is_refused(
    made: Made, tmp_path: Path, alter: Callable[[Made, bytes], bytes], expected: str
) -> None:
    path = tmp_path / "altered.pyz"
    path.write_bytes(alter(made, made.write("right.pyz").read_bytes()))
    with pytest.raises(BundleError, match=expected) as caught:
        prove(open_bundle(path))
    assert str(path) in str(caught.value)


def test_foreign_containers_are_refused(made: Made, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("manifest.json", json.dumps({"format": "envtool-bundle-1"}))
    (tmp_path / "directory").mkdir()
    for name in ("other.tar", "other.zip", "directory", "absent"):
        with pytest.raises(BundleError, match=name):
            open_bundle(tmp_path / name)


def test_a_file_that_the_manifest_does_not_name_is_refused(made: Made) -> None:
    directory = made.write("more", as_directory=True)
    (directory / "files" / "more").write_bytes(b"x")
    with pytest.raises(BundleError, match="files/more is not in its manifest"):
        open_bundle(directory)
    (directory / "files" / "more").unlink()
    path = next(content for content in made.contents if content.startswith("files/"))
    (directory / path).unlink()
    with pytest.raises(BundleError, match=f"{path} is missing"):
        open_bundle(directory)
    (directory / path).symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="not a regular file"):
        open_bundle(directory)


@pytest.mark.parametrize("path", ["../x", "files/x", "/etc/passwd", f"files/{'0' * 64}/a/b", "other"])
def test_a_path_that_leaves_the_bundle_is_refused(made: Made, path: str) -> None:
    directory = made.write(f"path-{len(path)}", as_directory=True)
    value = json.loads((directory / "manifest.json").read_bytes())
    value["files"][path] = {"sha256": "0" * 64, "size_bytes": 0}
    (directory / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(BundleError, match="does not belong in a bundle"):
        open_bundle(directory)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_no_damage_gets_through(made: Made, tmp_path: Path, place: float, bit: int, cut: bool) -> None:
    data = bytearray((made.root / "right.pyz").read_bytes() if (made.root / "right.pyz").exists()
                     else made.write("right.pyz").read_bytes())  # fmt: skip
    position = int(place * len(data))
    if cut:
        del data[position:]
    else:
        data[position] ^= 1 << bit
    path = tmp_path / "altered.pyz"
    path.write_bytes(data)
    try:
        bundle = open_bundle(path)
        found = {name: bundle.read(name) for name in bundle.manifest.files}
    except BundleError as error:
        said = str(error)
    else:
        # What is between the files, padding and times, is nothing that anybody reads.
        assert not cut
        assert found == made.contents
        return
    assert str(path) in said
