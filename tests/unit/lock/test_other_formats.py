"""environment.yml made of what a project has, and read again as `lock` reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from envtool.errors import EnvtoolError
from envtool.spec.environment import Dependency, read_spec
from envtool.spec.other_formats import convert

PIXI = """
[workspace]
channels = ["conda-forge"]
platforms = ["linux-64", "osx-arm64"]
[dependencies]
python = ">=3.10,<3.12"
numpy = "*"
pytorch = { version = "2.3.*", channel = "pytorch", build = "*cpu*" }
[target.linux-64.dependencies]
gcc = "*"
[target.osx-arm64.dependencies]
clang = "15.*"
[pypi-dependencies]
flask = { version = ">=3", extras = ["async"] }
me = { path = "." }
lib = { git = "https://git.example/lib.git", tag = "v1" }
[tasks]
test = "pytest"
"""
EXPORT = """
name: old
channels: [defaults]
dependencies: [python=3.9.18=h955ad1f_0, numpy=1.26.4, scipy>=1.2, {pip: [flask==3.0.0, -e .]}]
prefix: /home/me
"""
PROJECT = """
[project]
requires-python = ">=3.10, <3.13"
dependencies = ["flask>=3"]
[project.optional-dependencies]
dev = ["pytest"]
"""
CODE = "import torch, yaml, os.path\nfrom sklearn import svm\nfrom . import near\nimport beside\n"
CASES = {
    "pixi.toml": (PIXI, {"numpy", "pytorch::pytorch 2.3.* *cpu*", "gcc"}, {"flask[async]>=3"}, ["tasks", "their path"]),
    "export.yml": (EXPORT, {"python=3.9.18", "numpy=1.26.4", "scipy>=1.2"}, {"flask==3.0.0"}, ["-e ."]),
    "pyproject.toml": (PROJECT, {"python >=3.10,<3.13", "pip"}, {"flask>=3"}, ["dev"]),
    "requirements.txt": ("click>=8\n", {"python=3.11"}, {"click>=8"}, []),
}


def texts(dependencies: Iterable[Dependency]) -> set[str]:
    return {one.text for one in dependencies}


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_as_what_was_meant(tmp_path: Path, name: str) -> None:
    content, conda, wheels, left_out = CASES[name]
    (tmp_path / name).write_text(content)
    text, notes = convert(tmp_path / name, "made")
    (tmp_path / "environment.yml").write_text(text)
    found, *others = read_spec([tmp_path / "environment.yml"]).platforms
    assert conda <= texts(found.conda), text
    assert wheels <= texts(found.pip), text
    assert [word for word in left_out if word not in " ".join(notes)] == []
    if name == "pixi.toml":
        assert "clang 15.*" in texts(others[0].conda)
        assert "gcc" not in texts(others[0].conda)


def test_imports_become_packages_without_those_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CODE)
    (tmp_path / "beside.py").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "other.py").write_text("import never")
    text, _ = convert(tmp_path, "made")
    lines = text.splitlines()
    assert {"- pytorch", "- pyyaml", "- scikit-learn"} <= set(lines)
    assert [word for word in ("beside", "never", "near") if f"- {word}" in lines] == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("pyproject.toml", "[tool.poetry]"), ("pixi.toml", "= x"), ("export.yml", "dependencies: 3"), ("app/a.py", "def")],
)
def test_what_cannot_be_read_is_a_known_error(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(EnvtoolError):
        convert(path.parent if name.startswith("app") else path, "made")
