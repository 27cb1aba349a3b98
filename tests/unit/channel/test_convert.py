"""Wheels of any kind as conda packages: places, scripts, licences, RECORD, and the same bytes each time."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import posixpath
import shutil
import zipfile
from pathlib import Path

import pytest

from envtool.artifacts import conda_package
from envtool.artifacts.conda_package import PLACEHOLDER, Package
from envtool.channel.edit import check_archive
from envtool.errors import ArchiveError
from envtool.wheels.to_conda import ConversionOptions, convert

METADATA = """\
Metadata-Version: 2.4
Name: My_Ext
Version: 1.5
Summary: An extension.
License-Expression: MIT
Requires-Python: >=3.9
Requires-Dist: numpy>=1.21
Requires-Dist: tomli; python_version < "3.11"
Requires-Dist: pytest; extra == "test"
"""
FILES = {
    "my_ext/__init__.py": b"x = 1\n",
    "my_ext/core.so": b"\x7fELF",
    "my_ext.libs/libz.so": b"\x7fELF",
    "my_ext-1.5.data/scripts/tool": b"#!python\nprint(1)\n",
    "my_ext-1.5.data/scripts/shell": b"#!/bin/sh\n",
    "my_ext-1.5.data/data/share/ext.txt": b"data\n",
    "my_ext-1.5.data/headers/ext.h": b"int x;\n",
    "my_ext-1.5.dist-info/METADATA": METADATA.encode(),
    "my_ext-1.5.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp39-cp39-x\n",
    "my_ext-1.5.dist-info/entry_points.txt": b"[console_scripts]\next = my_ext.cli:App.run [fast]\n",
    "my_ext-1.5.dist-info/licenses/LICENSE": b"free\n",
}
COMPILED = "my_ext-1.5-cp39-cp39-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
SITE = "lib/python3.9/site-packages"


def write(directory: Path, name: str = COMPILED, **changes: bytes | None) -> Path:
    replaced = {path: changes.get(path.rpartition("/")[2].replace(".", "_"), data) for path, data in FILES.items()}
    files = {path: data for path, data in replaced.items() if data is not None}
    rows = [
        (path, "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode(), len(data))
        for path, data in files.items()
    ]
    out = io.StringIO()
    csv.writer(out).writerows([*rows, ("my_ext-1.5.dist-info/RECORD", "", "")])
    path = directory / name
    with zipfile.ZipFile(path, "w") as wheel:
        for each, data in files.items():
            wheel.writestr(each, data)
        wheel.writestr("my_ext-1.5.dist-info/RECORD", out.getvalue())
    return path


def files_of(package: Package) -> dict[str, bytes]:
    return {file.path: file.content for file in package.files}


def test_a_compiled_wheel_is_for_its_python_and_platform(tmp_path: Path) -> None:
    package = convert(write(tmp_path), ConversionOptions(names={"numpy": "numpy-base"}))
    assert (package.name, package.version, package.subdir, package.license) == ("my-ext", "1.5", "linux-64", "MIT")
    assert package.build.startswith("py39h")
    assert package.depends == (
        "python >=3.9,<3.10.0a0", "__glibc >=2.17", "python >=3.9", "numpy-base >=1.21", "tomli",
    )  # fmt: skip
    files = files_of(package)
    assert files[f"{SITE}/my_ext/core.so"] == b"\x7fELF"
    assert files["bin/tool"] == f"#!{PLACEHOLDER}/bin/python\nprint(1)\n".encode()
    assert files["bin/shell"] == b"#!/bin/sh\n"
    assert files["share/ext.txt"] == b"data\n"
    assert files["include/python3.9/my-ext/ext.h"] == b"int x;\n"
    assert files[f"{SITE}/my_ext-1.5.dist-info/INSTALLER"] == b"conda\n"
    script = files["bin/ext"].decode()
    assert script.startswith(f"#!{PLACEHOLDER}/bin/python\n")
    assert "from my_ext.cli import App\n" in script
    assert "sys.exit(App.run())" in script
    executable = {file.path for file in package.files if file.is_executable}
    assert executable == {"bin/tool", "bin/shell", "bin/ext"}
    assert {each.path for each in package.about} == {"licenses/LICENSE", "recipe/wheel.json"}


def test_record_lists_what_will_be_installed(tmp_path: Path) -> None:
    files = files_of(convert(write(tmp_path), ConversionOptions()))
    rows = list(csv.reader(io.StringIO(files[f"{SITE}/my_ext-1.5.dist-info/RECORD"].decode())))
    assert {posixpath.normpath(f"{SITE}/{row[0]}") for row in rows} == set(files)
    assert {row[0] for row in rows if not row[1]} == {
        "../../../bin/ext", "../../../bin/tool", "my_ext-1.5.dist-info/RECORD",
    }  # fmt: skip


def test_the_same_wheel_gives_the_same_archive(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    wheel = write(tmp_path)
    package = convert(wheel, ConversionOptions())
    data = conda_package.pack(package)
    assert conda_package.pack(convert(Path(shutil.copy(wheel, tmp_path / "other")), ConversionOptions())) == data
    path = tmp_path / package.file_name
    path.write_bytes(data)
    assert check_archive(path) == []
    assert convert(wheel, ConversionOptions(build_number=1)).build != package.build


def test_a_pure_wheel_becomes_noarch(tmp_path: Path) -> None:
    name = "my_ext-1.5-py3-none-any.whl"
    with pytest.raises(ArchiveError, match="a noarch package cannot express"):
        convert(write(tmp_path, name, ext_h=None), ConversionOptions())
    package = convert(write(tmp_path, name, ext_h=None), ConversionOptions(python="3.9"))
    assert package.depends == ("python >=3.9,<3.10.0a0", "numpy >=1.21", "tomli")
    plain = METADATA.replace('; python_version < "3.11"', "").encode()
    package = convert(write(tmp_path, name, ext_h=None, METADATA=plain), ConversionOptions())
    assert (package.subdir, package.depends) == ("noarch", ("python >=3.9", "numpy >=1.21", "tomli"))
    assert package.entry_points == ("ext = my_ext.cli:App.run",)
    assert files_of(package)["python-scripts/tool"] == b"#!python\nprint(1)\n"
    with pytest.raises(ArchiveError, match="kind 'headers'"):
        convert(write(tmp_path, name, METADATA=plain), ConversionOptions())


def test_a_script_that_is_none_is_an_error(tmp_path: Path) -> None:
    points = b"[console_scripts]\next = my_ext.cli; import os\n"
    with pytest.raises(ArchiveError, match="has an invalid console script"):
        convert(write(tmp_path, entry_points_txt=points), ConversionOptions())
