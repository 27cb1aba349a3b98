"""Groups of commands for both command lines: imported on demand, and a typo gets the nearest name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import IO, Any

import click
from click.shell_completion import CompletionItem


class UnknownCommandError(click.UsageError):
    """A word that is not a command; the hint is the nearest one."""

    def __init__(self, group: click.Group, ctx: click.Context, name: str) -> None:
        super().__init__(f"unknown command {name!r}", ctx)
        near = difflib.get_close_matches(name, group.list_commands(ctx), n=1)
        path = ctx.command_path
        self.hint = f"did you mean {path} {near[0]}?" if near else f"{path} --help lists the commands"

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to standard error."""
        click.echo(f"error: {self.message}\nhint: {self.hint}", file, err=True)


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
    """A group whose commands are imported only when one of them runs or shows its own help; `table` has the place
    (`module`, or `module:function`) and the summary of each command, by its name."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a word without importing the commands."""
        fitting = [(name, summary) for name, (_, summary) in self.table.items() if name.startswith(incomplete)]
        found = [CompletionItem(name, help=summary) for name, summary in fitting]
        return found + click.Command.shell_complete(self, ctx, incomplete)
