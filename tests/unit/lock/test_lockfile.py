from __future__ import annotations

from pathlib import Path

import pytest

from envtool import console
from envtool.errors import LockfileError
from envtool.lockfile.conda_lock_v1 import LockedPackage, parse_lockfile

ROOT = Path(__file__).parents[3]
VALID = """\
version: 1
metadata:
  content_hash: {linux-64: abc}
  channels: [{url: conda-forge, used_env_vars: []}]
  platforms: [linux-64]
  sources: [environment.yml]
package:
- name: click
  version: 8.1.8
  manager: conda
  platform: linux-64
  dependencies: {python: '>=3.9'}
  url: https://conda.anaconda.org/conda-forge/noarch/click-8.1.8-pyh707e725_0.conda
  hash:
    md5: f22f4d4970e09d68a10b922cbb0408d3
    sha256: c920d23cd1fcf565031c679adb62d848af60d6fbb0edc2d50ba475cea4f0d8ab
  category: main
  optional: false
"""


def issues(text: str) -> list[str]:
    with pytest.raises(LockfileError) as caught:
        parse_lockfile("conda-lock.yml", text)
    return [str(issue) for issue in caught.value.issues]


def test_a_lock_of_conda_lock_is_read() -> None:
    lockfile = parse_lockfile("conda-lock.yml", VALID)
    assert [(package.name, package.build_string) for package in lockfile.packages] == [("click", "pyh707e725_0")]
    assert lockfile.channels == ("conda-forge",)


def test_a_lock_of_the_first_versions_of_conda_lock_is_read() -> None:
    text = VALID.replace("version: 1\n", "", 1).replace(
        "[{url: conda-forge, used_env_vars: []}]", "[conda-forge, 'https://h/c']"
    )
    lockfile = parse_lockfile("conda-lock.yml", text)
    assert lockfile.channels == ("conda-forge", "https://h/c")
    assert lockfile.packages == parse_lockfile("conda-lock.yml", VALID).packages


def test_an_entry_that_is_there_twice() -> None:
    entry = VALID.partition("package:\n")[2]
    again = entry.replace("8.1.8", "8.1.7")
    where = "two entries of click (conda, linux-64, main), the first in line 8"
    for second in (entry, again):
        assert issues(VALID + second) == [f"conda-lock.yml:19: {where}; did a merge keep both?"]
    assert len(parse_lockfile("conda-lock.yml", VALID + again.replace("linux-64", "osx-64")).packages) == 2
    assert len(parse_lockfile("conda-lock.yml", VALID + again.replace("main", "dev")).packages) == 2


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("version: 1\n", "version: 2\n", "1: expected version 1 of conda-lock's format, found version 2"),
        ("version: 1\nmetadata:", "metadata2:", "1: expected version 1 of conda-lock's format, found no version"),
        (
            "version: 1\n",
            "version: 6\nenvironments: {}\n",
            "1: expected version 1 of conda-lock's format, found version 6",
        ),
        ("package:\n", "extra: 1\npackage:\n", "7: unknown key 'extra' in the file; known: version, metadata, package"),
        ("manager: conda", "manager: npm", "10: package[0].manager must be conda or pip, not 'npm'"),
        ("md5: f22f4d4970e09d68", "md5: F22F", "15: package[0].hash.md5 is not a md5: 'F22Fa10b922cbb0408d3'"),
        ("  platform: linux-64\n", "", "8: package[0] has no platform"),
        ("8.1.8\n", "8.1\n", "9: package[0].version must be a string, not the number 8.1; put it in quotes"),
        ("package:\n", "<<<<<<< HEAD\npackage:\n", "7: an unresolved merge conflict starts here"),
        ("package:\n", "package: [\n", "8: not YAML: did not find expected node content"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(before: str, after: str, expected: str) -> None:
    assert before in VALID
    assert issues(VALID.replace(before, after, 1)) == [f"conda-lock.yml:{expected}"]


def test_the_build_of_either_kind_of_archive() -> None:
    def build(file_name: str) -> str | None:
        return LockedPackage("conda", "a-b", "1", "linux-64", f"https://h.example/noarch/{file_name}", "0").build_string

    assert build("a-b-1-h0_0.tar.bz2") == "h0_0"
    assert build("a-b-1-py39_1.conda") == "py39_1"


@pytest.mark.parametrize("name", ["conda-lock.yml", "cpu-conda-lock.yml"])
def test_our_own_locks_name_no_mirror_and_have_every_hash(name: str) -> None:
    text = (ROOT / name).read_text()
    lockfile = parse_lockfile(name, text)
    hosts = {package.url.split("/")[2] for package in lockfile.packages}
    assert hosts == {"conda.anaconda.org"}
    assert all(each.sha256 and each.md5 for each in lockfile.packages)
    assert "127.0.0.1" not in text


@pytest.mark.parametrize(("sizes", "expected"), [('{"c920d23cd1fc":85169}', 85169), ("[]", None), ("{broken", None)])
def test_the_sizes_of_archives_stand_in_the_metadata(sizes: str, expected: int | None) -> None:
    text = VALID.replace("  sources:", f"  custom_metadata: {{envtool_sizes: '{sizes}'}}\n  sources:")
    lockfile = parse_lockfile("conda-lock.yml", text)
    assert [package.size_bytes for package in lockfile.packages] == [expected]
    assert lockfile.custom_metadata == {}


def test_two_entries_of_one_package_are_named() -> None:
    entry = VALID.partition("package:\n")[2]
    with pytest.raises(LockfileError) as raised:
        parse_lockfile("conda-lock.yml", VALID + entry)
    assert "two entries of click (conda, linux-64, main)" in str(raised.value)


def test_no_name_in_a_lock_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    console.answer("added  \x1b[2Jevil\x9b\r  1.0\n\tnext")
    assert capsys.readouterr().out == "added  \\x1b[2Jevil\\x9b\\x0d  1.0\n\tnext\n"
