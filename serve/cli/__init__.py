"""The command line of `serve`. A command's module is imported when it runs or shows its help."""

from __future__ import annotations

from keyword import iskeyword

import click

from envserve.commands import LazyGroup

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
# A function that Python has no such name for ends with an underscore.
_TABLE = {name: (f"{module}:{name}{'_' * iskeyword(name)}", summary) for name, (module, summary) in COMMANDS.items()}


@click.group(
    cls=LazyGroup,
    table=_TABLE,
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
