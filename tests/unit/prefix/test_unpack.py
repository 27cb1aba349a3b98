"""Unpacking archives, and what is known of the files from then on; the archives are real, and so is the linking."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from envtool.console import ProgressDisplay
from envtool.errors import ArchiveError
from envtool.install.apply import Unpacked, linked, unpack
from envtool.lockfile.model import LockedPackage
from envtool.prefix import rattler
from envtool.prefix.scan import Known, scan
from tests.support.archives import Archive, File

FILES = {
    "bin/tool": File(b"#!/bin/sh\n", 0o755),
    "lib/libx.so.1": File(b"library" * 1000, 0o644),
    "lib/libx.so": File(link="libx.so.1"),
    "share/empty": File(),
}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    path = tmp_path / "env"
    (path / "conda-meta").mkdir(parents=True)
    return path


def run(archive: Path, directory: Path, prefix: Path) -> Unpacked:
    with ProgressDisplay() as display, display.task("unpack") as task:
        return unpack({archive: directory}, prefix, task)[archive]


def tar_of(tmp_path: Path, *members: tarfile.TarInfo) -> Path:
    path = tmp_path / "odd-1.0-0.tar.bz2"
    with tarfile.open(path, "w:bz2") as tar:
        for member in members:
            content = (member.pax_headers or {}).get("comment", "").encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def member(name: str, content: str = "", kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, target, {"comment": content}
    return info


@pytest.mark.parametrize("suffix", [".conda", ".tar.bz2"])
def test_every_file_has_its_content_mode_and_time(tmp_path: Path, prefix: Path, suffix: str) -> None:
    found = run(Archive("tool", FILES).write(tmp_path, suffix), tmp_path / "tool", prefix)
    for name, file in FILES.items():
        path = tmp_path / "tool" / name
        if file.link:
            assert path.readlink() == Path(file.link)
            continue
        status = path.stat()
        assert (path.read_bytes(), status.st_mode & 0o777, status.st_mtime) == (file.content, file.mode, 1700000000)
        assert found.written[status.st_dev, status.st_ino].sha256 == hashlib.sha256(file.content).hexdigest()
    assert {each.path for each in found.payload} == FILES.keys()
    assert found.info.keys() == {"index.json", "paths.json"}


def test_a_file_that_names_the_prefix_is_not_known(tmp_path: Path, prefix: Path) -> None:
    name = os.fsencode(prefix)
    across = b"x" * ((1 << 20) - 3) + name  # in two pieces of what is read
    files = {"a": File(name), "b": File(across), "c": File(name[:-1])}
    found = run(Archive("tool", files).write(tmp_path), tmp_path / "tool", prefix)
    assert {path.sha256 for path in found.written.values()} & {
        hashlib.sha256(file.content).hexdigest() for file in files.values()
    } == {hashlib.sha256(name[:-1]).hexdigest()}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("/tmp/out", "x")], "path escapes the package"),
        ([member("lib/../../out", "x")], "path escapes the package"),
        ([member("lib", kind=tarfile.SYMTYPE, target=".."), member("lib/out", "x")], "cannot be unpacked"),
        ([member("pipe", kind=tarfile.FIFOTYPE)], "neither a file nor a link"),
        ([member("second", kind=tarfile.LNKTYPE, target="first")], "cannot be unpacked"),
        ([member("second", kind=tarfile.LNKTYPE, target="../../etc/passwd")], "path escapes the package"),
        ([member("lib", "a file"), member("lib/x", "x")], "cannot be unpacked"),
    ],
)
def test_what_leads_out_of_the_package_is_refused(
    tmp_path: Path, prefix: Path, members: list[tarfile.TarInfo], message: str
) -> None:
    (tmp_path / "inside").mkdir()
    with pytest.raises(ArchiveError, match=message):
        run(tar_of(tmp_path, *members), tmp_path / "inside" / "odd", prefix)
    assert not list(tmp_path.rglob("out"))


def test_a_second_name_and_a_second_file_of_a_name(tmp_path: Path, prefix: Path) -> None:
    archive = tar_of(
        tmp_path,
        member("first", "one"),
        member("second", kind=tarfile.LNKTYPE, target="first"),
        member("third", "old"),
        member("third", "newer"),
    )
    found = run(archive, tmp_path / "odd", prefix)
    assert (tmp_path / "odd/first").samefile(tmp_path / "odd/second")
    assert (tmp_path / "odd/third").read_text() == "newer"
    hashes = {each.path: each.sha256 for each in found.payload}
    expected = {"first": b"one", "second": b"one", "third": b"newer"}
    assert hashes == {name: hashlib.sha256(content).hexdigest() for name, content in expected.items()}


def test_what_is_no_archive_is_named(tmp_path: Path, prefix: Path) -> None:
    for suffix in (".conda", ".tar.bz2"):
        path = tmp_path / f"broken-1.0-0{suffix}"
        path.write_bytes(b"no archive at all")
        with pytest.raises(ArchiveError, match=r"broken-1\.0-0"):
            run(path, tmp_path / suffix, prefix)


def test_linked_files_are_those_that_were_unpacked_and_are_read_only_after_a_change(
    tmp_path: Path, prefix: Path
) -> None:
    archive = Archive("tool", FILES).write(tmp_path)
    cache = prefix / "conda-meta" / ".scratch"
    cache.mkdir()
    found = run(archive, cache / "0", prefix)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    package = LockedPackage("conda", "tool", "1.0", "linux-64", archive.as_uri(), sha256)
    rattler.link([rattler.LinkRequest(package, archive, cache / "0")], [], prefix, "linux-64", cache)
    known = Known(written=linked(cache, found.written))
    assert len(known.written) == sum(not file.link for file in FILES.values())
    path = prefix / "lib/libx.so.1"
    status = path.stat()
    # Other bytes and the old time: whoever does not read the file does not notice.
    path.write_bytes(b"LIBRARY" * 1000)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    entry = scan(prefix, {}, known)["lib/libx.so.1"]
    assert entry.sha256 == hashlib.sha256(FILES["lib/libx.so.1"].content).hexdigest()
    os.utime(path)
    assert scan(prefix, {}, known)["lib/libx.so.1"].sha256 == hashlib.sha256(b"LIBRARY" * 1000).hexdigest()
    copied = prefix / "lib/copy"
    copied.write_bytes(b"another")
    assert scan(prefix, {}, known)["lib/copy"].sha256 == hashlib.sha256(b"another").hexdigest()


def test_files_that_were_not_linked_are_forgotten_since_their_number_may_be_given_to_others(
    tmp_path: Path, prefix: Path
) -> None:
    found = run(Archive("tool", FILES).write(tmp_path), tmp_path / "tool", prefix)
    os.link(tmp_path / "tool/bin/tool", prefix / "tool")  # Path.hardlink_to came with Python 3.10
    left = linked(tmp_path / "tool", found.written)
    assert [each.sha256 for each in left.values()] == [hashlib.sha256(FILES["bin/tool"].content).hexdigest()]
