"""The commands of operators: status, history, rollback, pin, unpin, retry, store, verify, settings."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, TypeVar

import click

from serve.errors import OperationError, describe
from serve.operations import formatting
from serve.operations.operations import Operations
from serve.settings.settings import CONFIG_VARIABLE, DEFAULT_FILE, FIELDS, load_settings

Command = TypeVar("Command", bound=Callable[..., Any])

_NO = 1
_CLEAR = "\x1b[H\x1b[2J"
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def on_a_store(command: Command) -> Command:
    """Add the options that every command on a store has."""
    for option in (
        _json_option,
        click.option("--model", metavar="NAME[@LABEL]", help="Which one, where the server has several."),
        click.option(
            "--store",
            "root",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="The server's store; that of the settings by default.",
        ),
    ):
        command = option(command)
    return command


def _timeout_option(waited_for: str) -> Callable[[Command], Command]:
    help = f"How long to wait for {waited_for} (default 180)."
    return click.option("--timeout", "timeout_s", type=float, default=180.0, metavar="SECONDS", help=help)


def _open(root: Path | None, model: str | None) -> Operations:
    return Operations(root or load_settings(os.environ, Path.cwd()).find(model).store)


@click.command()
@on_a_store
@click.option(
    "--watch",
    "every_s",
    is_flag=False,
    flag_value=2.0,
    type=float,
    metavar="[SECONDS]",
    help="Show it again and again, every 2 seconds by default.",
)
def status(root: Path | None, model: str | None, as_json: bool, every_s: float | None) -> None:
    """Show what is served, by whom, and what was refused.

    \b
      python -m serve status --watch
      python -m serve status --model fraud@canary --json
    """
    operations = _open(root, model)
    clear = _CLEAR if every_s is not None and sys.stdout.isatty() and not as_json else ""
    while True:
        found = operations.status()
        text = json.dumps(formatting.status_as_json(found)) if as_json else formatting.status_as_text(found)
        click.echo(clear + text)
        if every_s is None:
            return
        time.sleep(every_s)


@click.command()
@on_a_store
def history(root: Path | None, model: str | None, as_json: bool) -> None:
    """List all generations, the newest first.

    \b
      python -m serve history
    """
    found = _open(root, model).history()
    click.echo(json.dumps(formatting.history_as_json(found)) if as_json else formatting.history_as_text(found))


@click.command()
@on_a_store
@click.option("--to", "version", metavar="VERSION", help="Which version; the one before by default.")
@_timeout_option("the workers")
def rollback(root: Path | None, model: str | None, as_json: bool, version: str | None, timeout_s: float) -> int | None:
    """Serve an older version, as a new generation.

    The generation that it replaces does not come back by itself; later checkpoints are served as usual, which `pin`
    stops.

    \b
      python -m serve rollback
      python -m serve rollback --to v41
    """
    operations = _open(root, model)
    order = operations.rollback(version)
    try:
        entry = operations.wait_for(order, timeout_s)
    except OperationError as error:
        click.echo(describe(error), err=True)
        return _NO
    is_live = f"version {entry.version} is live as generation {entry.generation}"
    click.echo(json.dumps(asdict(entry)) if as_json else is_live)
    return None


@click.command()
@on_a_store
@click.option("--reason", default="", help="For people; status shows it.")
def pin(root: Path | None, model: str | None, as_json: bool, reason: str) -> None:
    """Stop automatic moves; rollback still works.

    \b
      python -m serve pin --reason "v42 is being looked into"
    """
    made = _open(root, model).pin(reason)
    click.echo(json.dumps(asdict(made)) if as_json else f"pinned to version {made.version}; unpin allows moves")


@click.command()
@on_a_store
def unpin(root: Path | None, model: str | None, as_json: bool) -> None:
    """Allow automatic moves again.

    \b
      python -m serve unpin
    """
    was_pinned = _open(root, model).unpin()
    text = "automatic moves are allowed again" if was_pinned else "there was no pin"
    click.echo(json.dumps({"was_pinned": was_pinned}) if as_json else text)


@click.command()
@on_a_store
@click.argument("checkpoint", required=False)
def retry(root: Path | None, model: str | None, as_json: bool, checkpoint: str | None) -> None:
    """Judge anew what was refused: CHECKPOINT, by its name, version or sha256, or all of it.

    \b
      python -m serve retry
      python -m serve retry model_v2.safetensors
    """
    names = [record.name for record in _open(root, model).retry(checkpoint)]
    text = "is judged anew: " + ", ".join(names) if names else "nothing was refused"
    click.echo(json.dumps({"retried": names}) if as_json else text)


@click.command()
@on_a_store
def store(root: Path | None, model: str | None, as_json: bool) -> None:
    """Show what occupies the store, and why.

    \b
      python -m serve store
    """
    operations = _open(root, model)
    occupants, free_bytes = operations.occupants(), operations.free_bytes()
    if as_json:
        rows = [asdict(occupant) for occupant in occupants]
        click.echo(json.dumps({"free_bytes": free_bytes, "checkpoints": rows}))
    else:
        click.echo(formatting.store_as_text(occupants, free_bytes))


@click.command()
@on_a_store
@click.argument("directory", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
@click.option("--live", "is_live", is_flag=True, help="Check what each worker has in memory, tensor by tensor.")
@_timeout_option("--live")
def verify(
    root: Path | None, model: str | None, as_json: bool, directory: Path | None, is_live: bool, timeout_s: float
) -> int:
    """Check checkpoints against their markers, or live weights against their checkpoint.

    DIR is the watched directory, or one checkpoint.

    \b
      python -m serve verify checkpoints
      python -m serve verify --live
    """
    from serve.operations import verification

    if is_live == (directory is not None):
        raise OperationError("verify: expected either DIR or --live", hint="python -m serve verify --help")
    if directory is None:
        checked = _open(root, model).verify_live(timeout_s)
        click.echo(json.dumps([asdict(row) for row in checked]) if as_json else formatting.checked_as_text(checked))
        return _NO if any(row.differing or row.problem for row in checked) else 0
    found = verification.verify(directory)
    click.echo(json.dumps(formatting.verdicts_as_json(found)) if as_json else formatting.verdicts_as_text(found))
    return _NO if any(verdict.problem for verdict in found) else 0


@click.command()
@_json_option
@click.option("--model", metavar="NAME[@LABEL]", help="Which one, where the server has several.")
def explain(as_json: bool, model: str | None) -> None:
    """Explain what would happen to the next checkpoint under today's settings.

    \b
      python -m serve explain
      python -m serve explain --model fraud@canary
    """
    from serve.operations import explanation

    found = load_settings(os.environ, Path.cwd()).find(model)
    status = Operations(found.store).status() if found.store.is_dir() else None
    steps = explanation.explain(found, status)
    click.echo(json.dumps({"model": found.full_name, "steps": steps}) if as_json else "\n".join(steps))


@click.command()
@_json_option
def settings(as_json: bool) -> None:
    """List every setting, its variable and its default.

    \b
      python -m serve settings
    """
    if as_json:
        rows = [
            {"key": field.key, "variable": field.variable, "help": field.help, **field.default_as_json()}
            for field in FIELDS
        ]
        click.echo(json.dumps(rows))
        return
    click.echo(f"in {DEFAULT_FILE}, or in the file that {CONFIG_VARIABLE} names; each also as a variable")
    for field in FIELDS:
        stated = field.default_as_json()
        default = f"default {json.dumps(stated['default'])}" if stated else "required"
        click.echo(f"{field.key} ({field.variable}; {default})\n    {field.help}")
