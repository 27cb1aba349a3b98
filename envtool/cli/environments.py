"""`envtool run`, `shell`, `activate`, `shell-hook`, `list` and `remove`: environments that are there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from envtool import console
from envtool.cli.options import SHELLS, environment_options, json_option, prefix_option, shell_option
from envtool.prefix import activate as activation
from envtool.prefix.prefix import Prefix, environments, find_prefix
from envtool.prefix.prefix import remove as remove_environment


@click.command("run", context_settings={"ignore_unknown_options": True})
@environment_options
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- PROGRAM [ARG]...")
def run(prefix: Prefix, argv: tuple[str, ...]) -> None:
    """Run a program in an environment, activated.

    envtool becomes the program: signals and the exit status are the program's own.

    \b
    Example:
      envtool run -n quickstart -- python -c "import torch; print(torch.__version__)"
    """
    activation.run(prefix, argv)


@click.command("shell")
@environment_options
def shell(prefix: Prefix) -> None:
    """Open a shell in an environment; leaving the shell leaves the environment.

    The start-up files of the shell are read after the environment is activated.

    \b
    Example:
      envtool shell -n quickstart
    """
    activation.run(prefix, [os.environ.get("SHELL") or "/bin/sh"])


@click.command("activate")
@click.argument("name", required=False)
@prefix_option
@shell_option
def activate(name: str | None, path: Path | None, shell: str) -> None:
    """Activate an environment in this shell; `envtool deactivate` ends it.

    A program cannot change the shell that started it, so the shell needs `envtool shell-hook` once. Without it the
    script is printed, and can be evaluated by hand.
    """
    script = activation.activate(find_prefix(name, path), shell)
    if sys.stdout.isatty():
        console.say(f'this shell has no hook yet: eval "$(envtool shell-hook {shell})"')
    console.answer_script(script)


@click.command("shell-hook")
@click.argument("shell", type=click.Choice(SHELLS))
def shell_hook(shell: str) -> None:
    """Print what a shell has to evaluate so that `envtool activate NAME` and `envtool deactivate` work in it.

    \b
    In ~/.bashrc:                  eval "$(envtool shell-hook bash)"
    In ~/.zshrc:                   eval "$(envtool shell-hook zsh)"
    In ~/.config/fish/config.fish: envtool shell-hook fish | source
    """
    console.answer(activation.hook(shell))


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show the environments that envtool made, with the env digest of each."""
    found = environments()
    if as_json:
        rows = [(str(each.path), each.state.value, each.env_digest, each.package_count) for each in found]
        console.answer_json([dict(zip(("prefix", "state", "env_digest", "packages"), row)) for row in rows])
        return
    if not found:
        console.say("no environments yet; envtool create makes one from a lock")
    for each in found:
        digest = (each.env_digest or "")[:16]
        console.answer(f"{each.state.value:10}  {digest:16}  {each.package_count:4} packages  {each.path}")


@click.command("remove")
@environment_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove(prefix: Prefix, yes: bool) -> None:
    """Remove an environment with everything in it. What it was made from stays in the cache."""
    prefix.refuse_foreign()
    if not yes:
        click.confirm(f"remove {prefix.path} and everything in it?", abort=True, err=True)
    remove_environment(prefix)
    console.say(f"removed {prefix.path}")
