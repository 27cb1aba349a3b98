"""Lines that people bring along from pip, mamba and conda-lock: they work, or the error says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from envtool.spec import environment_yml, pip_requirements
from envtool.spec.pip_requirements import Line

GIT = "git+https://host.invalid/team/x@v1"


def parse(line: str, base: Path = Path()) -> pip_requirements.Requirements:
    return pip_requirements.parse([Line(line, "environment.yml:7")], base)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{GIT}#egg=name", f"name @ {GIT}#egg=name"),
        (f"{GIT}#egg=name[a,b]&subdirectory=d", f"name[a,b] @ {GIT}#egg=name[a,b]&subdirectory=d"),
        (f"{GIT}#subdirectory=d&egg=na.me", f"na.me @ {GIT}#subdirectory=d&egg=na.me"),
        (f"{GIT}#egg=name ; python_version < '4'", f"name @ {GIT}#egg=name ; python_version < '4'"),
        ("https://h.invalid/some_thing-1.0-py3-none-any.whl", None),
        (f"https://h.invalid/thing-1.0-py3-none-any.whl#sha256={'0' * 64}", None),
    ],
)
def test_urls_that_say_their_name(line: str, expected: str | None) -> None:
    found = parse(line)
    assert not found.issues
    written = found.requirements[0].text
    assert written == expected or (expected is None and written.endswith(f"thing @ {line}"))
    assert pip_requirements.name_of(written) in ("name", "na-me", "some-thing", "thing")


@pytest.mark.parametrize(
    "form",
    ["-r{}", "-r {}", "-r={}", "--requirement {}", "--requirement={}", "-r file:{}", "-r 'file:{}'", "-rfile:{}",
     "-r file://{base}/{}", "-r {base}/{}", "-r file:{base}/{}", "-c{}", "-c file:{}"],
)  # fmt: skip
def test_every_way_to_name_a_file(tmp_path: Path, form: str) -> None:
    base = tmp_path / "a b" if "file:" not in form else tmp_path / "ab"
    base.mkdir()
    (base / "more.txt").write_text("flask==3.0\n")
    found = parse(form.format("more.txt", base=base), base)
    assert not found.issues
    lines = found.constraints if form.startswith("-c") else found.requirements
    assert [line.text for line in lines] == ["flask==3.0"]


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("-e .", "pip install --no-deps -e ."),
        ("-e ./sub[dev]", "pip install --no-deps -e ./sub[dev]"),
        ("--editable=../other", "pip install --no-deps -e ../other"),
        (f"-e {GIT}#egg=name", f"write 'name @ {GIT}#egg=name'"),
        (GIT, "write it as NAME @ URL"),
        ("-r https://host.invalid/requirements.txt", "put it beside environment.yml"),
        ("-r missing.txt", "missing.txt cannot be read: No such file"),
        ("--no-binary :all:", "the option --no-binary cannot be part of a lock"),
    ],
)
def test_what_cannot_work_says_what_to_write(line: str, advice: str) -> None:
    issues = parse(line).issues
    assert [issue.place for issue in issues] == ["environment.yml:7"]
    assert advice in issues[0].message


@pytest.mark.parametrize("entry", ["sel(linux): htop", "sel(osx):\n      - a\n      - b", "sel( win ) : x"])
def test_selectors_of_mamba(entry: str) -> None:
    text = f"channels: [c]\ndependencies:\n  - python\n  - {entry}\n"
    issues = environment_yml.parse(Path("environment.yml"), text).issues
    assert [issue.place for issue in issues] == ["environment.yml:4"]
    assert "# [" in issues[0].message
    assert "write the line as `- " in issues[0].message


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ("numpy: 1.10", "write the line as `- numpy=1.10`"),
        ("numpy: '>=1,<2'", "write the line as `- numpy>=1,<2`"),
        ("https://host/channel/noarch/numpy-1-0.conda", "for example CHANNEL::NAME=VERSION=BUILD"),
    ],
)
def test_an_entry_that_is_no_match_spec(entry: str, advice: str) -> None:
    text = f"channels: [c]\ndependencies:\n  - python\n  - {entry}\n"
    (issue,) = environment_yml.parse(Path("environment.yml"), text).issues
    assert issue.place == "environment.yml:4"
    assert advice in issue.message


def test_a_comment_without_a_blank_is_one_as_with_conda() -> None:
    text = "channels: [c]\ndependencies:\n  - numpy=1#why\n"
    (line,) = environment_yml.parse(Path("environment.yml"), text).sections["linux-64"].conda
    assert line.text == "numpy=1"


@pytest.mark.parametrize("name", ["pyproject.toml", "pixi.toml", "requirements.txt", "setup.cfg", "setup.py"])
def test_files_of_other_tools(name: str) -> None:
    issues = environment_yml.parse(Path(name), "[project]\nname = 'x'\n").issues
    assert [issue.message.split(";")[0] for issue in issues] == [
        f"{name} is not an environment.yml, the only supported format"
    ]
