"""The command line: commands are imported on demand, and a typo gets the nearest name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import IO, Any

import click

from envtool import console
from envtool.errors import EnvtoolError


class UnknownCommandError(click.UsageError):
    """A word that is not a command, shown as an error with a hint."""

    def __init__(self, group: click.Group, ctx: click.Context, name: str) -> None:
        """Keep the nearest command as the hint."""
        super().__init__(f"unknown command {name!r}", ctx)
        near = difflib.get_close_matches(name, group.list_commands(ctx), n=1)
        path = ctx.command_path
        self.hint = f"did you mean {path} {near[0]}?" if near else f"{path} --help lists the commands"

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to standard error."""
        console.fail(EnvtoolError(self.message, self.hint))


class CommandGroup(click.Group):
    """A group that suggests the nearest command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names. Raises UnknownCommandError if no command has this name."""
        if not args[0].startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise UnknownCommandError(self, ctx, args[0])
        return super().resolve_command(ctx, args)


class LazyGroup(CommandGroup):
    """A group whose commands are imported only when one of them runs or shows its own help."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
        """Take the place (`module`, or `module:function`) and the summary of each command, by its name."""
        super().__init__(*args, **attributes)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self.table:
            return None
        module, _, function = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), function or "command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the summaries of the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.table.items()])


# The summaries are here so that `--help` imports no command.
COMMANDS = {
    "init": ("envtool.cli.init", "Write environment.yml from a template or a project's files."),
    "lock": ("envtool.cli.lock", "Choose every package and write conda-lock.yml."),
    "diff": ("envtool.cli.diff:diff", "Show how two locks differ."),
    "tree": ("envtool.cli.graph:tree", "Show what each package of a lock needs."),
    "why": ("envtool.cli.graph:why", "Say why a package is in a lock."),
    "why-not": ("envtool.cli.lock:why_not", "Show what holds back a version."),
    "outdated": ("envtool.cli.lock:outdated", "Show newer versions, and what holds them back."),
    "audit": ("envtool.cli.audit", "Look up known vulnerabilities and licences."),
    "policy": ("envtool.cli.policy", "Ask whether an environment fits this machine's policy."),
    "export": ("envtool.cli.export", "Write a lock in the format of another tool."),
    "merge-driver": ("envtool.cli.diff:merge_driver", "Let git merge locks."),
    "create": ("envtool.cli.create", "Make an environment equal to a lock."),
    "verify": ("envtool.cli.verify:verify", "Prove that an environment is exactly what its lock states."),
    "digest": ("envtool.cli.verify:digest", "Compute the env digest of an environment."),
    "run": ("envtool.cli.environments:run", "Run a program in an environment."),
    "shell": ("envtool.cli.environments:shell", "Open a shell in an environment."),
    "activate": ("envtool.cli.environments:activate", "Activate an environment in this shell."),
    "shell-hook": ("envtool.cli.environments:shell_hook", "Let a shell activate environments."),
    "list": ("envtool.cli.environments:list_", "Show the environments that envtool made."),
    "remove": ("envtool.cli.environments:remove", "Remove an environment."),
    "cache": ("envtool.cli.cache", "See what the cache takes, and make room."),
    "image": ("envtool.cli.image", "Make an OCI image straight from a lock."),
    "channel": ("envtool.cli.channel", "Make conda channels of your own."),
    "bundle": ("envtool.cli.bundle", "Carry an environment to a machine without a network."),
    "mirror": ("envtool.cli.mirror", "Find, measure and use mirrors of channels and wheels."),
    "doctor": ("envtool.cli.doctor", "Find what on this machine would break an environment."),
    "deploy": ("envtool.cli.deploy", "Serve on real machines: units, sites, releases."),
    "ci": ("envtool.cli.ci", "Check that a lock is fresh, available and reproducible."),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 an error with a hint, 70 a fault of envtool, "
    "130 interrupted; of `envtool ci` also 10 stale, 11 unreachable, 12 irreproducible, 13 vulnerable.",
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
