"""Every command and option of ours that a page shows exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from envtool.cli import cli as envtool
from serve.cli import cli as serve

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
    if "adr" not in page.parts and page.name != "commands.md"  # decisions are of their day; made from the code
]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def shown(page: Path) -> Iterator[tuple[click.Command, list[str]]]:
    """The commands of ours in a page's code, each with the words after it."""
    text = page.read_text("utf-8")
    prose = FENCE.sub("", text)
    blocks = [block for language, block in FENCE.findall(text) if language in ("", "console", "sh", "yaml", "groovy")]
    blocks += re.findall(r"((?:^    .*\n)+)", prose, re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").split("\n")
    for line in (*lines, *re.findall(r"`([^`\n]+)`", prose)):
        for name, words in re.findall(r"(?:^|[\s(])(envtool|serve) ([a-z-][^|;&>#)'\"]*)", line):
            yield envtool if name == "envtool" else serve, words.split(" -- ")[0].split()


def unknown(command: click.Command, words: list[str]) -> list[str]:
    """The words that name no command or option."""
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        if found is None:
            return [name]
        command = found
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    options = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
    return [option for option in options if option not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_commands_that_there_are(page: Path) -> None:
    assert [(words, found) for command, words in shown(page) if (found := unknown(command, words))] == []


def test_there_are_many() -> None:
    assert sum(1 for page in PAGES for _ in shown(page)) > 400
