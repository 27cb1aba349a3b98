"""`envtool shell-hook`."""

from __future__ import annotations

import click

from envtool import console
from envtool.cli.options import SHELLS
from envtool.prefix.activate import hook


@click.command("shell-hook")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print what a shell has to evaluate so that `envtool activate NAME` and `envtool deactivate` work in it.

    \b
    In ~/.bashrc:                  eval "$(envtool shell-hook bash)"
    In ~/.zshrc:                   eval "$(envtool shell-hook zsh)"
    In ~/.config/fish/config.fish: envtool shell-hook fish | source
    """
    console.answer(hook(shell))
