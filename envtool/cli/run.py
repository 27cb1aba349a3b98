"""`envtool run`."""

from __future__ import annotations

from pathlib import Path

import click

from envtool.cli.options import name_option, prefix_option
from envtool.prefix.activate import run
from envtool.prefix.prefix import find_prefix


@click.command("run", context_settings={"ignore_unknown_options": True})
@name_option
@prefix_option
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- PROGRAM [ARG]...")
def command(name: str | None, path: Path | None, argv: tuple[str, ...]) -> None:
    """Run a program in an environment, activated.

    envtool becomes the program: signals and the exit status are the program's own.

    \b
    Example:
      envtool run -n quickstart -- python -c "import torch; print(torch.__version__)"
    """
    run(find_prefix(name, path), argv)
