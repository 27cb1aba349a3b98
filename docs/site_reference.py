"""Writes, or compares by --check, the pages that are made from the code: settings and commands."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from envtool.cli import cli as envtool
from serve.cli import cli as serve
from serve.settings.parsers import SERVER
from serve.settings.settings import FIELDS

HERE = Path(__file__).parent / "reference"
NOTE = "<!-- Made from the code by bin/docs reference; a test compares. -->"


def settings() -> str:
    """Return the page of the settings."""
    rows = []
    for field in FIELDS:
        stated = field.default_as_json()
        default = f"`{json.dumps(stated['default'])}`" if stated else "required"
        scope = "server" if field.scope == SERVER else "model"
        rows.append(f"| `{field.key}` | {field.help.replace('|', '/')} | {default} | {scope} |")
    head = [
        "# Settings",
        NOTE,
        "",
        "The keys of `serve.toml`. Each is also a variable, `SERVE_POLL_S` for `poll_s`, which wins. Paths in the file",
        "are relative to the file. `model` means that each model of a server may have its own.",
        "",
        "| key | meaning | default | of |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def commands() -> str:
    """Return the page of the commands."""
    head = ["# Commands", NOTE, "", "What `--help` shows, of every command of `envtool` and `serve`.", ""]
    return "\n".join([*head, *_of(envtool, "envtool"), *_of(serve, "serve")]).rstrip() + "\n"


def _of(command: click.Command, name: str, depth: int = 2) -> Iterator[str]:
    shown = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "terminal_width": 100}
    context = click.Context(command, info_name=name, **shown)
    yield f"{'#' * depth} {name}"
    yield "```text"
    yield inspect.cleandoc(command.get_help(context)).strip()
    yield "```"
    yield ""
    if isinstance(command, click.Group):
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            if found is not None:
                yield from _of(found, f"{name} {part}", 3)


PAGES = {"settings.md": settings, "commands.md": commands}

if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        stale = [name for name, write in PAGES.items() if (HERE / name).read_text("utf-8") != write()]
        sys.exit(f"{', '.join(stale)}: `python docs/site_reference.py` makes them anew" if stale else 0)
    for name, write in PAGES.items():
        (HERE / name).write_text(write(), encoding="utf-8")
