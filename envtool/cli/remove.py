"""`envtool remove`."""

from __future__ import annotations

from pathlib import Path

import click

from envtool import console
from envtool.cli.options import name_option, prefix_option
from envtool.prefix.environments import remove
from envtool.prefix.prefix import find_prefix


@click.command("remove")
@name_option
@prefix_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(name: str | None, path: Path | None, yes: bool) -> None:
    """Remove an environment with everything in it. What it was made from stays in the cache."""
    prefix = find_prefix(name, path)
    prefix.refuse_foreign()
    if not yes:
        click.confirm(f"remove {prefix.path} and everything in it?", abort=True, err=True)
    remove(prefix)
    console.say(f"removed {prefix.path}")
