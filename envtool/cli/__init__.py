"""The command line. Each command is a module that imports its work only when it runs, so that `--help` is quick."""

from __future__ import annotations

import importlib

import click

_COMMANDS = (
    "init", "lock", "diff", "tree", "why", "why-not", "outdated", "export", "merge-driver", "create", "verify",
    "digest", "run", "activate", "shell-hook", "list", "remove", "cache", "channel", "bundle", "mirror", "doctor",
    "deploy", "ci",
)  # fmt: skip


class _Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"envtool.cli.{cmd_name.replace('-', '_')}").command
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 an error with a hint, 130 interrupted.",
)
@click.version_option(None, "-V", "--version", package_name="envserve", prog_name="envtool")
def cli() -> None:
    """Lock a conda environment, make it on any machine byte for byte, and prove it.

    \b
    A first environment:
      envtool init                          write environment.yml from a template
      envtool lock                          choose every package, write conda-lock.yml
      envtool create -n NAME                make the environment that the lock describes
      envtool verify -n NAME                prove that it is exactly that
      envtool run -n NAME -- python ...     use it
    """
