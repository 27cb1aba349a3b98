from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from envtool.artifacts import conda_package
from envtool.artifacts.conda_archive import read_payload
from envtool.artifacts.conda_package import PLACEHOLDER, Entry, Package, safe_path
from envtool.errors import ArchiveError
from tests.support import conda_file

FILES = (
    Entry("lib/python3.9/_vars.py", f"PREFIX = '{PLACEHOLDER}'\n".encode(), has_placeholder=True),
    Entry("bin/demo", b"#!/bin/sh\n", is_executable=True),
    Entry("bin/also", b"#!/bin/sh\n", is_executable=True, link="demo"),
    Entry("share/" + "long" * 40 + "/ünï.txt", b"text"),
)
ABOUT = (Entry("licenses/LICENSE", b"free\n"), Entry("recipe/recipe.yml", b"package: {}\n"))


def package(**changes: object) -> Package:
    plain = Package("demo", "1.0", 2, "linux-64", ("__glibc >=2.29",), "MIT", "A demo.", None, FILES, ABOUT)
    return plain._replace(**changes)  # type: ignore[arg-type]


def written(tmp_path: Path, made: Package) -> conda_file.Archive:
    path = tmp_path / made.file_name
    path.write_bytes(conda_package.pack(made))
    return conda_file.read(path)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = package()
    found = written(tmp_path, made)
    assert found.files["bin/demo"] == b"#!/bin/sh\n"
    assert found.files["bin/also"] == b"demo"
    assert found.modes == {
        "bin/also": 0o777,
        "bin/demo": 0o755,
        "lib/python3.9/_vars.py": 0o644,
        FILES[3].path: 0o644,
    }
    assert found.index == {
        "name": "demo",
        "version": "1.0",
        "build": made.build,
        "build_number": 2,
        "depends": ["__glibc >=2.29"],
        "constrains": [],
        "license": "MIT",
        "subdir": "linux-64",
        "arch": "x86_64",
        "platform": "linux",
    }
    assert found.info["licenses/LICENSE"] == b"free\n"
    assert found.info["recipe/recipe.yml"] == b"package: {}\n"
    assert found.info["files"].decode().splitlines() == sorted(found.files)
    assert found.info["has_prefix"].decode() == f"{PLACEHOLDER} text lib/python3.9/_vars.py\n"
    assert json.loads(found.info["about.json"]) == {"license": "MIT", "summary": "A demo."}
    assert "link.json" not in found.info


def test_paths_json_says_everything_of_each_file(tmp_path: Path) -> None:
    rows = {row["_path"]: row for row in written(tmp_path, package()).paths}
    assert list(rows) == sorted(rows)
    text = FILES[0].content
    assert rows["lib/python3.9/_vars.py"] == {
        "_path": "lib/python3.9/_vars.py",
        "path_type": "hardlink",
        "sha256": hashlib.sha256(text).hexdigest(),
        "size_in_bytes": len(text),
        "prefix_placeholder": PLACEHOLDER,
        "file_mode": "text",
    }
    # CEP 34: of a link, the file that it points to is hashed.
    assert rows["bin/also"]["path_type"] == "softlink"
    assert rows["bin/also"]["sha256"] == rows["bin/demo"]["sha256"]


def test_a_noarch_package_names_its_entry_points(tmp_path: Path) -> None:
    made = package(subdir="noarch", entry_points=("demo = demo.cli:main",), files=(Entry("site-packages/d.py", b""),))
    found = written(tmp_path, made)
    assert made.build.startswith("pyh")
    assert found.index["noarch"] == "python"
    assert found.index["arch"] is None
    assert found.index["platform"] is None
    link = {"noarch": {"type": "python", "entry_points": ["demo = demo.cli:main"]}, "package_metadata_version": 1}
    assert json.loads(found.info["link.json"]) == link


def test_the_zip_is_stored_and_carries_no_time_or_owner() -> None:
    made = package()
    with zipfile.ZipFile(io.BytesIO(conda_package.pack(made))) as outer:
        names = [info.filename for info in outer.infolist()]
        assert names == ["metadata.json", f"pkg-{made.stem}.tar.zst", f"info-{made.stem}.tar.zst"]
        assert {info.compress_type for info in outer.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in outer.infolist()} == {(1980, 1, 2, 0, 0, 0)}
        inner = zstandard.ZstdDecompressor().decompress(outer.read(names[1]))
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member in members} == {
        (0, 0, "", "", conda_package.MTIME_S)
    }


SCRIPT = """
import hashlib, os, sys
os.umask(int(sys.argv[1], 8))
from pathlib import Path
from envtool.artifacts import conda_package as archive
from envtool.artifacts.conda_package import Entry, Package
paths = {f"lib/file{number}": str(number).encode() for number in range(50)}
ordered = list(paths.items()) if sys.argv[2] == "a" else list(paths.items())[::-1]
files = tuple(Entry(path, content) for path, content in ordered)
made = Package("demo", "1.0", 0, "linux-64", (), "MIT", "A demo.", None, files)
print(made.file_name, hashlib.sha256(archive.pack(made)).hexdigest())
"""


def test_bytes_depend_on_nothing_but_the_content(tmp_path: Path) -> None:
    outputs = set()
    for number, (umask, order, zone) in enumerate((("022", "a", "UTC"), ("077", "b", "Asia/Shanghai"))):
        directory = tmp_path / str(number)
        directory.mkdir()
        env = {**os.environ, "PYTHONHASHSEED": str(number), "TZ": zone, "PYTHONPATH": os.pathsep.join(sys.path)}
        argv = [sys.executable, "-c", SCRIPT, umask, order]
        outputs.add(subprocess.run(argv, cwd=directory, env=env, check=True, capture_output=True, text=True).stdout)
    assert len(outputs) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"files": (*FILES[:3], FILES[3]._replace(content=b"other"))},
        {"files": (*FILES[:3], FILES[3]._replace(is_executable=True))},
        {"files": FILES[:3]},
        {"depends": ()},
        {"license": "BSD-3-Clause"},
        {"about": ABOUT[:1]},
        {"entry_points": ("a = b:c",)},
    ],
)
def test_other_content_is_another_build(changes: dict[str, object]) -> None:
    assert package(**changes).file_name != package().file_name


def test_two_files_of_one_path_and_unsafe_paths_are_refused() -> None:
    with pytest.raises(ArchiveError, match="twice"):
        conda_package.pack(package(files=(Entry("a", b"1"), Entry("./a", b"2"))))
    with pytest.raises(ArchiveError, match="unsafe"):
        conda_package.pack(package(files=(Entry("../a", b"1"),)))
    assert safe_path("./a//b/.", "x") == "a/b"


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    whole = conda_package.pack(package())
    path = tmp_path / "demo.conda"
    for content in (b"", b"<html>", whole[:-40], whole[:100] + b"\0" * 200 + whole[300:]):
        path.write_bytes(content)
        with pytest.raises(ArchiveError, match=r"demo\.conda"):
            read_payload(path)


def test_a_whole_zip_of_damaged_parts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "demo.conda"
    with zipfile.ZipFile(path, "w") as outer:
        for name in ("metadata.json", "pkg-demo.tar.zst", "info-demo.tar.zst"):
            outer.writestr(name, b"junk")
    with pytest.raises(ArchiveError, match=r"demo\.conda"):
        read_payload(path)
