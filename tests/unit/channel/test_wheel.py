from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from envtool.artifacts.conda_package import Package
from envtool.channel.python_recipe.build import to_package
from envtool.channel.python_recipe.recipe import Recipe, WheelSource
from envtool.errors import ArchiveError

METADATA = (
    "Metadata-Version: 2.1\nName: My.Demo\nVersion: 1.5\nRequires-Python: >= 3.9, !=3.9.1\n\nRequires-Python: no\n"
)
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n"
ENTRY_POINTS = (
    "[console_scripts]\nDemo = demo.cli:main [fast]\nalso=demo:other\n[gui_scripts]\nwin = demo:gui\n[x]\na = b\n"
)
RECIPE = Recipe("my-demo", "1.5", 4, "A demo.", None, "MIT", ("extra >=1",), WheelSource("0" * 64), "", Path("r"))
FILES = {
    "demo/__init__.py": "x = 1\n",
    "my_demo-1.5.data/scripts/tool": "#!python\n",
    "my_demo-1.5.data/data/share/demo.txt": "data\n",
    "my_demo-1.5.data/purelib/more.py": "",
    "my_demo-1.5.dist-info/METADATA": METADATA,
    "my_demo-1.5.dist-info/WHEEL": WHEEL,
    "my_demo-1.5.dist-info/entry_points.txt": ENTRY_POINTS,
    "my_demo-1.5.dist-info/licenses/sub/LICENSE": "free\n",
    "my_demo-1.5.dist-info/LICENSE.txt": "also free\n",
}


def digest(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def record(files: dict[str, str]) -> str:
    rows = [f"{name},{digest(text)},{len(text)}" for name, text in files.items()]
    return "\n".join([*rows, "my_demo-1.5.dist-info/RECORD,,"]) + "\n"


def make(tmp_path: Path, files: dict[str, str], listed: str | None = None) -> Path:
    path = tmp_path / "my_demo-1.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("my_demo-1.5.dist-info/RECORD", record(files) if listed is None else listed)
    return path


def convert(tmp_path: Path, changes: dict[str, str | None] | None = None, listed: str | None = None) -> Package:
    files = {name: text for name, text in {**FILES, **(changes or {})}.items() if text is not None}
    return to_package(make(tmp_path, files, listed), RECIPE, ())


def refusal(tmp_path: Path, changes: dict[str, str | None], listed: str | None = None) -> str:
    with pytest.raises(ArchiveError) as caught:
        convert(tmp_path, changes, listed)
    return caught.value.message


def test_a_wheel_becomes_a_noarch_package(tmp_path: Path) -> None:
    made = convert(tmp_path)
    assert (made.name, made.version, made.build_number, made.subdir) == ("my-demo", "1.5", 4, "noarch")
    assert made.depends == ("python >=3.9,!=3.9.1", "extra >=1")
    assert made.entry_points == ("Demo = demo.cli:main", "also = demo:other", "win = demo:gui")
    files = {entry.path: entry for entry in made.files}
    assert files["site-packages/demo/__init__.py"].content == b"x = 1\n"
    assert files["site-packages/more.py"].content == b""
    assert files["share/demo.txt"].content == b"data\n"
    assert files["python-scripts/tool"].is_executable
    assert files["site-packages/my_demo-1.5.dist-info/INSTALLER"].content == b"conda\n"
    licenses = {entry.path: entry.content for entry in made.about}
    assert licenses == {"licenses/LICENSE.txt": b"also free\n", "licenses/sub/LICENSE": b"free\n"}


def test_record_lists_what_will_be_installed(tmp_path: Path) -> None:
    made = convert(tmp_path)
    files = {entry.path: entry for entry in made.files}
    content = files["site-packages/my_demo-1.5.dist-info/RECORD"].content.decode()
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(content))}
    info = "my_demo-1.5.dist-info"
    assert rows["demo/__init__.py"] == [digest("x = 1\n"), "6"]
    assert rows[f"{info}/INSTALLER"] == [digest("conda\n"), "6"]
    assert rows[f"{info}/RECORD"] == ["", ""]
    assert rows["../../../bin/tool"] == [digest("#!python\n"), "9"]
    assert rows["../../../share/demo.txt"] == [digest("data\n"), "5"]
    for script in ("Demo", "also", "win"):
        assert rows[f"../../../bin/{script}"] == ["", ""]
    assert len(rows) == len(made.files) + 3


def test_a_wheel_without_entry_points_or_python_requirement(tmp_path: Path) -> None:
    info = "my_demo-1.5.dist-info"
    plain = METADATA.replace("Requires-Python: >= 3.9, !=3.9.1\n", "", 1)
    made = convert(tmp_path, {f"{info}/entry_points.txt": None, f"{info}/METADATA": plain})
    assert made.entry_points == ()
    assert made.depends[0] == "python"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("WHEEL", WHEEL.replace("true", "false"), "not a pure-Python wheel"),
        ("WHEEL", WHEEL + "Tag: cp39-cp39-linux_x86_64\n", "cp39-cp39-linux_x86_64"),
        ("WHEEL", None, "has no my_demo-1.5.dist-info/WHEEL"),
        ("METADATA", METADATA.replace("My.Demo", "other"), "expected my-demo, actual other"),
        ("METADATA", METADATA.replace("1.5", "1.6"), "expected 1.5, actual 1.6"),
        ("METADATA", METADATA.replace(">= 3.9", "===3.9"), "cannot be expressed as a conda version: ===3.9"),
    ],
)
def test_wheels_that_do_not_fit(tmp_path: Path, name: str, text: str | None, expected: str) -> None:
    assert expected in refusal(tmp_path, {f"my_demo-1.5.dist-info/{name}": text})


def test_headers_have_no_place_in_a_noarch_package(tmp_path: Path) -> None:
    assert "'headers'" in refusal(tmp_path, {"my_demo-1.5.data/headers/demo.h": ""})


def test_every_contradiction_of_record_is_named(tmp_path: Path) -> None:
    listed = record({**FILES, "demo/__init__.py": "x = 2\n", "demo/gone.py": ""}).replace("more.py", "less.py")
    message = refusal(tmp_path, {}, listed)
    assert "demo/gone.py: is in RECORD but not in the wheel" in message
    assert f"demo/__init__.py: expected {digest('x = 2' + chr(10))}" in message
    assert "more.py: expected to be in RECORD" in message


def test_unsafe_and_damaged_wheels_are_refused(tmp_path: Path) -> None:
    assert "unsafe" in refusal(tmp_path, {"../evil.py": ""})
    path = make(tmp_path, FILES)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ArchiveError, match="not a whole wheel"):
        to_package(path, RECIPE, ())


def test_two_dist_infos_are_one_too_many(tmp_path: Path) -> None:
    assert "not 2" in refusal(tmp_path, {"other-1.dist-info/METADATA": ""})
