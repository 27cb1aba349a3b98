"""The command line of `serve`. A command's module is imported when it runs or shows its help."""

from __future__ import annotations

import difflib
import pkgutil
from keyword import iskeyword

import click
from click.shell_completion import CompletionItem

# The module and the summary of each command, so that `serve --help` imports none of them.
COMMANDS = {
    "new": ("serve.cli.development_commands", "Start a project that trains, publishes and serves."),
    "check": ("serve.cli.development_commands", "Find out what would go wrong with a model class."),
    "run": ("serve.cli.development_commands", "Serve a model class while it is being written."),
    "publish": ("serve.cli.publish_commands", "Publish a checkpoint, its marker last."),
    "import": ("serve.cli.development_commands", "Carry over a model from another server."),
    "golden": ("serve.cli.publish_commands", "Make golden requests of recorded ones."),
    "replay": ("serve.cli.publish_commands", "Have a checkpoint answer recorded requests."),
    "keygen": ("serve.cli.publish_commands", "Make a pair of keys to sign checkpoints with."),
    "status": ("serve.cli.operator_commands", "Show what is served, by whom, and what was refused."),
    "history": ("serve.cli.operator_commands", "List all generations, the newest first."),
    "diff": ("serve.cli.operator_commands", "Show what changed between two generations."),
    "rollback": ("serve.cli.operator_commands", "Serve an older version, as a new generation."),
    "pin": ("serve.cli.operator_commands", "Stop automatic moves; rollback still works."),
    "unpin": ("serve.cli.operator_commands", "Allow automatic moves again."),
    "fleet": ("serve.cli.fleet_commands", "Show who is in the fleet, and say what only a person can."),
    "retry": ("serve.cli.operator_commands", "Judge anew what was refused."),
    "store": ("serve.cli.operator_commands", "Show what occupies the store, and why."),
    "verify": ("serve.cli.operator_commands", "Check checkpoints, or the weights in memory."),
    "trace": ("serve.cli.proof_commands", "Follow an answer back to the bytes that made it."),
    "attest": ("serve.cli.proof_commands", "Write a signed statement of what was committed."),
    "explain": ("serve.cli.operator_commands", "Explain what would happen to the next checkpoint."),
    "bom": ("serve.cli.proof_commands", "Write a bill of materials of the model and its environment."),
    "settings": ("serve.cli.operator_commands", "List every setting, its variable and its default."),
}


class UnknownCommandError(click.UsageError):
    """No command has this name; the hint is the nearest one."""

    def __init__(self, name: str, context: click.Context) -> None:
        super().__init__(f"unknown command {name!r}", context)
        close = difflib.get_close_matches(name, COMMANDS, 1)
        self.hint = f"did you mean: {context.command_path} {close[0]}" if close else None


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = pkgutil.resolve_name(f"{COMMANDS[cmd_name][0]}:{cmd_name}{'_' * iskeyword(cmd_name)}")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in COMMANDS or args[0].startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise UnknownCommandError(args[0], ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        fitting = [(name, summary) for name, (_, summary) in COMMANDS.items() if name.startswith(incomplete)]
        found = [CompletionItem(name, help=summary) for name, summary in fitting]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=_Commands,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 an error with a hint, 130 interrupted.",
)
@click.version_option(None, "-V", "--version", package_name="envserve", prog_name="serve")
def cli() -> None:
    """Hot-swap PyTorch models under Flask and gunicorn.

    \b
    1. write serve.toml (python -m serve settings lists its keys):
         model = "mymodule:MyModel"
         checkpoints = "checkpoints"
    2. start the server:
         gunicorn -c python:serve.gunicorn_conf serve.wsgi:app
    3. after each training, publish the weights; the server swaps them in:
         python -m serve publish weights.safetensors --to checkpoints
    4. look, and go back if you must:
         python -m serve status
         python -m serve rollback
    """
