"""What is said in two places has to be the same in both."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from envtool.templates import render, templates

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", each)[0].lower().replace("_", "-") for each in requirements}


@pytest.mark.parametrize("template", ["embedded", "conda-forge", "pytorch"])
def test_an_environment_has_all_that_serve_needs(template: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chosen = templates()[template]
    given = {"channel": "file:///channel"} if any(each.name == "channel" for each in chosen.variables) else {}
    lines = [line.strip() for line in render(chosen, given).splitlines()]
    rendered = names([line[2:].strip() for line in lines if line.startswith("- ")])
    missing = names(project["optional-dependencies"]["serve"]) - rendered
    # Flask brings click. The template `pytorch` is locked against records without safetensors for Python 3.9.
    assert missing <= {"embedded": set(), "conda-forge": {"click"}, "pytorch": {"click", "safetensors"}}[template]
    assert rendered & {"torch", "pytorch"}
