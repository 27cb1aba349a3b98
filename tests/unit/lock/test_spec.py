from __future__ import annotations

from pathlib import Path

import pytest

from envtool.errors import MissingFileError, SpecError
from envtool.spec import environment_yml
from envtool.spec.environment import EnvironmentSpec, PlatformSpec, combine, read_spec

BASE = """\
name: demo
channels: [conda-forge]
platforms: [linux-64, osx-arm64]
dependencies:
  - python=3.9
"""


def spec(*texts: str, directory: Path = Path()) -> EnvironmentSpec:
    names = ["environment.yml", "dev.yml", "more.yml"]
    return combine([environment_yml.parse(directory / name, text) for name, text in zip(names, texts)])


def issues(*texts: str, directory: Path = Path()) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec(*texts, directory=directory)
    return [str(issue) for issue in caught.value.issues]


def platform(found: EnvironmentSpec, name: str = "linux-64") -> PlatformSpec:
    return next(each for each in found.platforms if each.platform == name)


def texts(dependencies) -> list[str]:
    return [dependency.text for dependency in dependencies]


def test_a_whole_file() -> None:
    found = spec(
        BASE + "variables: {A: 1}\nvirtual-packages:\n  linux-64: {__cuda: '12.1'}\nexclude-newer: 2026-01-31\n"
    )
    assert (found.name, found.channels, found.variables) == ("demo", ("conda-forge",), {"A": "1"})
    assert [each.platform for each in found.platforms] == ["linux-64", "osx-arm64"]
    assert platform(found).virtual_packages == {"__cuda": "12.1"}
    assert platform(found).declared_at == {"__cuda": "environment.yml:8"}
    assert platform(found, "osx-arm64").virtual_packages == {}
    assert found.exclude_newer == "2026-01-31"


def test_every_issue_of_every_file_at_once() -> None:
    first = BASE + "variables: [a]\nplatforms2: [beos]\n"
    second = "channels: conda-forge\ndependencies:\n  - '=3'\n  - numpy # [py39]\n"
    found = issues(BASE + "variables: [a]\ncategory: 1\n", second)
    assert found == [
        "environment.yml:6: variables must be a mapping, not a list",
        "environment.yml:7: category must be a string, not the number 1; put it in quotes",
        "dev.yml:1: channels must be a list, not a string",
        "dev.yml:3: '=3' is not a valid match spec, for example python=3.9",
        "dev.yml:4: selector [py39] names no platform: py39; known: aarch64, arm64, armv6l, armv7l, linux, linux32, "
        "linux64, osx, osx64, ppc64, ppc64le, riscv64, s390x, unix, win, win32, win64, x64, x86, x86_64",
    ]
    assert [issue.partition(": ")[0] for issue in issues(first)] == ["environment.yml:6", "environment.yml:7"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: the file is empty; it needs at least channels and dependencies"),
        ("- a\n", "1: the file must be a mapping, not a list"),
        ("channels: [c]\n", "1: dependencies name no conda package for linux-64"),
        ("channels: [nodefaults]\ndependencies: [a]\n", "1: channels name none; packages have to come from somewhere"),
        (BASE + "exclude_newer: 7d\n", "6: unknown key 'exclude_newer' in the file; did you mean exclude-newer?"),
        (BASE + "dependancies: [a]\n", "6: unknown key 'dependancies' in the file; did you mean dependencies?"),
        (BASE + "variables: {H=I: x}\n", "6: variable 'H=I' must have letters, digits and _"),
        (BASE + 'variables: {A: "a\\0b"}\n', "6: the value of A has a character that no variable can hold"),
        (BASE + "run-link-scripts: [graphviz=1]\n", "6: run-link-scripts names packages alone, without versions or "),
        (BASE + "exclude-newer-channel: {other: false}\n", "6: exclude-newer-channel names other, which is not among "),
        (BASE + "  - numpy  # [linux and]\n", "6: selector [linux and] cannot be read; names, and, or, not and "),
        (BASE + "name: again\n", "6: key 'name' appears twice"),
        (BASE + "virtual-packages: {linux-64: {cuda: '1'}}\n", "6: virtual package 'cuda' must start with two "),
        (
            BASE + "virtual-packages: {linux-64: {__cuda: x}}\n",
            "6: virtual package __cuda must be a version, and a build ",
        ),
        (BASE + "category: 'a b'\n", "6: category 'a b' may have letters, digits, and - _ . between them"),
    ],
)
def test_malformed(text: str, expected: str) -> None:
    found = issues(text)
    assert len(found) == 1
    assert found[0].startswith(f"environment.yml:{expected}")


def test_selectors_keep_lines_for_their_platforms() -> None:
    text = BASE + "  - numpy  # [linux]\n  - scipy # only there [osx]\n  - zlib # [unix]\n  # [win]\n"
    found = spec(text)
    assert texts(platform(found).conda) == ["python=3.9", "numpy", "zlib"]
    assert texts(platform(found, "osx-arm64").conda) == ["python=3.9", "scipy", "zlib"]


@pytest.mark.parametrize(
    ("selector", "platforms"),
    [
        ("not win", "linux-64 linux-aarch64 osx-64 osx-arm64"),
        ("linux and not aarch64", "linux-64"),
        ("linux\u00a0and not aarch64", "linux-64"),
        ("win or osx64", "osx-64 win-64"),
        ("not (linux or win)", "osx-64 osx-arm64"),
        ("not linux and not win", "osx-64 osx-arm64"),
        ("linux or osx and arm64", "linux-64 linux-aarch64 osx-arm64"),
        ("x86_64 and unix", "linux-64 osx-64"),
        ("s390x", ""),
    ],
)
def test_selectors_with_words_of_logic(selector: str, platforms: str) -> None:
    names = ["linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64"]
    found = environment_yml.parse(Path("environment.yml"), BASE + f"  - numpy  # [{selector}]\n")
    assert [name for name in names if "numpy" in texts(found.sections[name].conda)] == platforms.split()


def test_what_is_ignored_is_said() -> None:
    found = spec("x-common: &c [python]\ndependencies: *c\nvariables: {A: true, D: 2026-01-31, V: 1.10}\n")
    assert found.channels == ("defaults",)
    assert found.variables == {"A": "true", "D": "2026-01-31", "V": "1.10"}
    assert [str(warning) for warning in found.warnings] == [
        "environment.yml:1: the key 'x-common' is unknown and ignored",
        "environment.yml:1: no channels are named: conda's defaults are taken; name them to be sure",
    ]


@pytest.mark.parametrize("name", ["a/b", "base", "root", ".", "..", "a b", "a:b", "a#b"])
def test_a_name_that_no_environment_can_have(name: str) -> None:
    assert issues(f"name: '{name}'\nchannels: [c]\ndependencies: [python]\n") == [
        f"environment.yml:1: name {name!r}: no / : # or space, and none of base, root, . and .."
    ]


def test_a_pip_section_brings_pip_unless_it_is_pinned() -> None:
    found = spec(BASE + "  - pip:\n      - six\n")
    assert [(each.text, each.place) for each in platform(found).conda][-1] == ("pip", "environment.yml:6")
    pinned = spec(BASE + "  - pip=23.1\n  - pip:\n      - six\n")
    assert texts(platform(pinned).conda) == ["python=3.9", "pip=23.1"]


def test_two_files_make_one_environment() -> None:
    dev = "category: dev\nchannels: [conda-forge]\ndependencies: [pytest]\nvariables: {B: 2}\n"
    found = spec(BASE + "variables: {A: 1}\n", dev)
    assert [(each.text, each.category) for each in platform(found).conda] == [("python=3.9", "main"), ("pytest", "dev")]
    assert found.variables == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("channels: [pytorch]\ndependencies: [a]\n", "dev.yml:1: channels pytorch are not the end of conda-forge"),
        ("dependencies: [a]\nvariables: {A: 2}\n", "dev.yml:2: A: expected 1 as at environment.yml:6, found 2"),
        (
            "dependencies: [a]\nvirtual-packages: {linux-64: {__cuda: '11'}}\n",
            "dev.yml:2: __cuda: expected 12.1 as at environment.yml:8, found 11",
        ),
    ],
)  # fmt: skip
def test_files_that_contradict_each_other(second: str, expected: str) -> None:
    first = BASE + "variables: {A: 1}\nvirtual-packages:\n  linux-64: {__cuda: '12.1'}\n"
    assert issues(first, second) == [expected]


def test_a_longer_list_of_channels_may_start_with_more() -> None:
    assert spec(BASE, "channels: [pytorch, conda-forge]\ndependencies: [a]\n").channels == ("pytorch", "conda-forge")


def test_a_file_that_is_not_there_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as caught:
        read_spec([tmp_path / "environment.yml"])
    assert "envtool init" in (caught.value.hint or "")


def pip(lines: str) -> str:
    return BASE + "  - pip:\n" + "".join(f"      - {line}\n" for line in lines.splitlines())


def test_requirements_files_are_read_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "base.txt").write_text("six  # a comment\n\nflask[async] \\\n  >=3\n-c bounds.txt\n")
    (tmp_path / "bounds.txt").write_text("click<9\n")
    found = platform(spec(pip("-r base.txt\nnumpy"), directory=tmp_path))
    assert [(each.text, each.place) for each in found.pip] == [
        ("six", f"{tmp_path}/base.txt:1"),
        ("flask[async]   >=3", f"{tmp_path}/base.txt:3"),
        ("numpy", f"{tmp_path}/environment.yml:8"),
    ]
    assert [(constraint.text, constraint.place) for constraint in found.pip_constraints] == [
        ("click<9", f"{tmp_path}/bounds.txt:1")
    ]


def test_indexes_are_taken_from_the_lines() -> None:
    found = spec(
        pip("--index-url https://$USER:$TOKEN@a.example/simple\n--extra-index-url=https://b.example/simple\n--pre\nsix")
    )
    assert found.pip_index == "https://$USER:$TOKEN@a.example/simple"
    assert found.pip_repositories == ("https://b.example/simple",)
    assert found.allows_prereleases


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-e .", "an editable project has no hash"),
        ("--editable=git+https://h.example/x", "an editable project has no hash"),
        ("--find-links wheels", "the option --find-links cannot be part of a lock"),
        ("-r nowhere.txt", "nowhere.txt cannot be read: No such file or directory"),
        ("./wheels/x.whl", "'./wheels/x.whl' is a local file"),
        ("x @ file:///wheels/x.whl", "'x @ file:///wheels/x.whl' is a local file"),
        ("git+https://h.example/x.git", "does not say its name; write it as NAME @ URL"),
        ("x @ git+ftp://h.example/x.git", "expected git+ and https, http, ssh, file or git, found"),
        ("x @ hg+https://h.example/x", "of version control systems, only git is known"),
        ("x @ git+https://secret@h.example/x.git", "credentials in https://h.example/x.git; write variables"),
        ("x @ https://me:secret@h.example/x-1-py3-none-any.whl", "credentials in https://h.example/x-1-py3-none-any"),
        ("x @ git+https://h.example/x.git --hash=sha256:00", "--hash has no meaning for a repository"),
        ("'not a requirement'", "'not a requirement' is not a valid requirement for pip"),
        ("--index-url https://me:secret@h.example/", "credentials in https://h.example/"),
    ],
)
def test_lines_that_cannot_be_locked_are_refused_with_their_place(line: str, reason: str) -> None:
    found = issues(pip(f"six\n{line}"))
    assert len(found) == 1
    assert found[0].startswith("environment.yml:8: ")
    assert reason in found[0]
    assert "secret" not in found[0]


def test_a_password_in_the_first_of_two_indexes_is_not_shown() -> None:
    found = issues(pip("--index-url https://me:secret@h.example/\n--index-url https://other.example/"))
    assert found == [
        "environment.yml:7: credentials in https://h.example/; write variables: https://$USER:$TOKEN@host/",
        "environment.yml:8: expected one index URL, https://***@h.example/ is set already",
    ]


def test_a_requirements_file_that_names_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.txt").write_text("-r loop.txt\n")
    assert issues(pip("-r loop.txt"), directory=tmp_path) == [f"{tmp_path}/loop.txt:1: loop.txt names itself"]
