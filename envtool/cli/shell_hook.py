"""`envtool shell-hook`."""

from __future__ import annotations

import click

from envtool.cli.options import SHELLS


@click.command("shell-hook", short_help="Let a shell activate environments.")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print what a shell has to evaluate so that `envtool activate NAME` and `envtool deactivate` work in it.

    \b
    In ~/.bashrc:                  eval "$(envtool shell-hook bash)"
    In ~/.zshrc:                   eval "$(envtool shell-hook zsh)"
    In ~/.config/fish/config.fish: envtool shell-hook fish | source
    """
    from envtool import console
    from envtool.prefix.activate import hook

    console.answer(hook(shell))
