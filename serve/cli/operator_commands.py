"""The commands of operators, most of them on the store of a server."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable

import click

from serve.cli.options import PATH, Command, answer, json_option, model_option, on_a_store, settings_of
from serve.errors import OperationError, describe
from serve.operations import formatting
from serve.operations.operations import Operations, verify_checkpoints
from serve.settings.settings import CONFIG_VARIABLE, DEFAULT_FILE, FIELDS

_NO = 1
_CLEAR, _SHOWN = "\x1b[2J", 5  # the newest generations of the live view
Answer = tuple[Any, str]


def _on_operations(command: Callable[..., Answer]) -> Callable[..., None]:
    """Add these options, hand over the operations on the store, and print the answer for programs or for people."""

    @functools.wraps(command)
    def run(root: Path | None, model: str | None, as_json: bool, **options: Any) -> None:
        answer(as_json, *command(Operations(root or settings_of(model).store), **options))

    return on_a_store(run)


def _timeout_option(waited_for: str) -> Callable[[Command], Command]:
    help = f"How long to wait for {waited_for} (default 180)."
    return click.option("--timeout", "timeout_s", type=float, default=180.0, metavar="SECONDS", help=help)


@click.command()
@on_a_store
@click.option(
    "--watch", "every_s", is_flag=False, flag_value=2.0, type=float, metavar="[SECONDS]",
    help="Show it again and again, every 2 seconds by default.",
)  # fmt: skip
def status(root: Path | None, model: str | None, as_json: bool, every_s: float | None) -> None:
    """Show what is served, by whom, and what was refused.

    \b
      python -m serve status --watch
      python -m serve status --model fraud@canary --json
    """
    operations, before = Operations(root or settings_of(model).store), None
    # Python has no stream for a descriptor that was closed (`>&-`).
    is_live = every_s is not None and sys.stdout is not None and sys.stdout.isatty() and not as_json
    click.echo(_CLEAR if is_live else "", nl=False)
    while True:
        found = operations.status()
        text = formatting.status_as_text(found)
        if is_live:
            now = time.monotonic(), operations.history(_SHOWN)
            size, today = shutil.get_terminal_size(), time.strftime("%Y-%m-%d", time.gmtime())
            text, before = formatting.screen(text, now, before or now, size, today), now
        answer(as_json, formatting.status_as_json(found), text)
        if every_s is None:
            return
        time.sleep(every_s)


@click.command()
@_on_operations
@click.option("--steps", "has_steps", is_flag=True, help="Show each step, from publishing on, and what decided it.")
def history(operations: Operations, has_steps: bool) -> Answer:
    """List all generations, the newest first.

    \b
      python -m serve history
      python -m serve history --steps
    """
    found = operations.history()
    return formatting.history_as_json(found), formatting.history_as_text(found, has_steps)


@click.command()
@_on_operations
@click.argument("older", type=int, required=False)
@click.argument("newer", type=int, required=False)
def diff(operations: Operations, older: int | None, newer: int | None) -> Answer:
    """Show what changed between two generations, the last two by default.

    Bytes, publisher, metrics, environment, and how far each tensor moved.

    \b
      python -m serve diff
      python -m serve diff 6 7
    """
    found = operations.compare(older, newer)
    return asdict(found), formatting.comparison_as_text(found)


@click.command()
@_on_operations
@click.option("--to", "version", metavar="VERSION", help="Which version; the one before by default.")
@_timeout_option("the workers")
def rollback(operations: Operations, version: str | None, timeout_s: float) -> Answer:
    """Serve an older version, as a new generation.

    The generation that it replaces does not come back by itself; later checkpoints are served as usual, which `pin`
    stops.

    \b
      python -m serve rollback
      python -m serve rollback --to v41
    """
    order = operations.rollback(version)
    try:
        entry = operations.wait_for(order, timeout_s)
    except OperationError as error:
        click.echo(describe(error), err=True)
        raise click.exceptions.Exit(_NO) from None
    return asdict(entry), f"version {entry.version} is live as generation {entry.generation}"


@click.command()
@_on_operations
@click.option("--reason", default="", help="For people; status shows it.")
def pin(operations: Operations, reason: str) -> Answer:
    """Stop automatic moves; rollback still works.

    \b
      python -m serve pin --reason "v42 is being looked into"
    """
    made = operations.pin(reason)
    return asdict(made), f"pinned to version {made.version}; unpin allows moves"


@click.command()
@_on_operations
def unpin(operations: Operations) -> Answer:
    """Allow automatic moves again.

    \b
      python -m serve unpin
    """
    was_pinned = operations.unpin()
    return {"was_pinned": was_pinned}, "automatic moves are allowed again" if was_pinned else "there was no pin"


@click.command()
@_on_operations
@click.argument("checkpoint", required=False)
def retry(operations: Operations, checkpoint: str | None) -> Answer:
    """Judge anew what was refused: CHECKPOINT, by its name, version or sha256, or all of it.

    \b
      python -m serve retry
      python -m serve retry model_v2.safetensors
    """
    names = [record.name for record in operations.retry(checkpoint)]
    return {"retried": names}, "is judged anew: " + ", ".join(names) if names else "nothing was refused"


@click.command()
@_on_operations
def store(operations: Operations) -> Answer:
    """Show what occupies the store, and why.

    \b
      python -m serve store
    """
    occupants, free_bytes = operations.occupants(), operations.store.free_bytes()
    facts = {"free_bytes": free_bytes, "checkpoints": [asdict(occupant) for occupant in occupants]}
    return facts, formatting.store_as_text(occupants, free_bytes)


@click.command()
@on_a_store
@click.argument("directory", metavar="[DIR]", type=PATH, required=False)
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
    if is_live == (directory is not None):
        raise OperationError("verify: expected either DIR or --live", hint="python -m serve verify --help")
    if directory is None:
        checked = Operations(root or settings_of(model).store).verify_live(timeout_s)
        answer(as_json, [asdict(row) for row in checked], formatting.checked_as_text(checked))
        return _NO if any(row.differing or row.problem for row in checked) else 0
    found = verify_checkpoints(directory)
    facts = [{**asdict(verdict), "path": str(verdict.path)} for verdict in found]
    answer(as_json, facts, formatting.verdicts_as_text(found))
    return _NO if any(verdict.problem for verdict in found) else 0


@click.command()
@json_option
@model_option
def explain(as_json: bool, model: str | None) -> None:
    """Explain what would happen to the next checkpoint under today's settings.

    \b
      python -m serve explain
      python -m serve explain --model fraud@canary
    """
    from serve.operations import explanation

    found = settings_of(model)
    status = Operations(found.store).status() if found.store.is_dir() else None
    steps = list(explanation.explain(found, status))
    answer(as_json, {"model": found.full_name, "steps": steps}, "\n".join(steps))


@click.command()
@json_option
def settings(as_json: bool) -> None:
    """List every setting, its variable and its default.

    \b
      python -m serve settings
    """
    rows, lines = [], [f"in {DEFAULT_FILE}, or in the file that {CONFIG_VARIABLE} names; each also as a variable"]
    for field in FIELDS:
        stated = field.default_as_json()
        default = f"default {json.dumps(stated['default'])}" if stated else "required"
        rows.append({"key": field.key, "variable": field.variable, "help": field.help, **stated})
        lines += [f"{field.key} ({field.variable}; {default})", f"    {field.help}"]
    answer(as_json, rows, "\n".join(lines))
