"""`envtool activate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from envtool import console
from envtool.cli.options import prefix_option, shell_option
from envtool.prefix.activate import activate
from envtool.prefix.prefix import find_prefix


@click.command("activate")
@click.argument("name", required=False)
@prefix_option
@shell_option
def command(name: str | None, path: Path | None, shell: str) -> None:
    """Activate an environment in this shell; `envtool deactivate` ends it.

    A program cannot change the shell that started it, so the shell needs `envtool shell-hook` once. Without it the
    script is printed, and can be evaluated by hand.
    """
    script = activate(find_prefix(name, path), shell)
    if sys.stdout.isatty():
        console.say(f'this shell has no hook yet: eval "$(envtool shell-hook {shell})"')
    console.answer_script(script)
