"""`envtool shell`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from envtool.cli.options import name_option, prefix_option
from envtool.prefix.activate import run
from envtool.prefix.prefix import find_prefix


@click.command("shell")
@name_option
@prefix_option
def command(name: str | None, path: Path | None) -> None:
    """Open a shell in an environment; leaving the shell leaves the environment.

    The start-up files of the shell are read after the environment is activated.

    \b
    Example:
      envtool shell -n quickstart
    """
    run(find_prefix(name, path), [os.environ.get("SHELL") or "/bin/sh"])
