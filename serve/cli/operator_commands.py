"""The commands of operators: status, history, rollback, pin, unpin, retry, store, verify."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from serve.errors import OperationError
from serve.operations import formatting
from serve.operations.operations import Operations
from serve.operations.verification import verify
from serve.settings.settings import load_settings

_NO = 1
_CLEAR = "\x1b[H\x1b[2J"


class Output(NamedTuple):
    """What a command prints, and its exit code."""

    text: str
    code: int = 0


def add_commands(commands: Any) -> None:
    """Add the commands of operators to the command line.

    Args:
        commands: argparse's collection of commands.
    """
    status = _add(commands, "status", _status, "what is served, by whom, and what was refused")
    status.add_argument("--watch", nargs="?", const=2.0, type=float, metavar="SECONDS", help="again and again")
    _add(commands, "history", _history, "all generations, the newest first")
    rollback = _add(
        commands,
        "rollback",
        _rollback,
        "serve an older version, as a new generation",
        "What it replaces does not come back by itself; what is published later is served as ever. `pin` stops that.",
    )
    rollback.add_argument("--to", metavar="VERSION", help="which version (default: the one before)")
    rollback.add_argument(
        "--timeout", type=float, default=180.0, metavar="SECONDS", help="how long to wait for the workers (default 180)"
    )
    pin = _add(commands, "pin", _pin, "stop automatic moves; rollback still works")
    pin.add_argument("--reason", default="", help="for people; status shows it")
    _add(commands, "unpin", _unpin, "allow automatic moves again")
    retry = _add(commands, "retry", _retry, "judge anew what was refused")
    retry.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="its name, version or sha256 (default: all)")
    _add(commands, "store", _store, "what occupies the store, and why")
    checked = _add(
        commands, "verify", _verify, "check checkpoints against their markers, or live weights against their checkpoint"
    )
    checked.add_argument("directory", metavar="DIR", type=Path, nargs="?", help="the watched one, or one checkpoint")
    checked.add_argument("--live", action="store_true", help="what each worker has in memory, tensor by tensor")
    checked.add_argument(
        "--timeout", type=float, default=180.0, metavar="SECONDS", help="how long to wait for --live (default 180)"
    )


def _add(commands: Any, name: str, run: Any, help: str, more: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}".strip()
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="the server's store (default: the one in the settings)"
    )
    parser.add_argument("--model", metavar="NAME[@LABEL]", help="which one, where the server has several")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)
    return parser


def _open(options: argparse.Namespace) -> Operations:
    return Operations(options.store or load_settings(os.environ, Path.cwd()).find(options.model).store)


def _status(options: argparse.Namespace) -> Output:
    operations = _open(options)
    while options.watch is not None:
        clear = _CLEAR if sys.stdout.isatty() and not options.json else ""
        sys.stdout.write(clear + _show_status(operations, options.json) + "\n")
        sys.stdout.flush()
        time.sleep(options.watch)
    return Output(_show_status(operations, options.json))


def _show_status(operations: Operations, is_json: bool) -> str:
    status = operations.status()
    return json.dumps(formatting.status_as_json(status)) if is_json else formatting.status_as_text(status)


def _history(options: argparse.Namespace) -> Output:
    history = _open(options).history()
    return Output(
        json.dumps(formatting.history_as_json(history)) if options.json else formatting.history_as_text(history)
    )


def _rollback(options: argparse.Namespace) -> Output:
    operations = _open(options)
    order = operations.rollback(options.to)
    try:
        entry = operations.wait_for(order, options.timeout)
    except OperationError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return Output("", _NO)
    if options.json:
        return Output(json.dumps(asdict(entry)))
    return Output(f"version {entry.version} is live as generation {entry.generation}")


def _pin(options: argparse.Namespace) -> Output:
    pin = _open(options).pin(options.reason)
    return Output(json.dumps(asdict(pin)) if options.json else f"pinned to version {pin.version}; unpin allows moves")


def _unpin(options: argparse.Namespace) -> Output:
    was_pinned = _open(options).unpin()
    if options.json:
        return Output(json.dumps({"was_pinned": was_pinned}))
    return Output("automatic moves are allowed again" if was_pinned else "there was no pin")


def _retry(options: argparse.Namespace) -> Output:
    names = [record.name for record in _open(options).retry(options.checkpoint)]
    if options.json:
        return Output(json.dumps({"retried": names}))
    return Output("is judged anew: " + ", ".join(names) if names else "nothing was refused")


def _store(options: argparse.Namespace) -> Output:
    operations = _open(options)
    occupants, free_bytes = operations.occupants(), operations.free_bytes()
    if options.json:
        return Output(json.dumps({"free_bytes": free_bytes, "checkpoints": [asdict(each) for each in occupants]}))
    return Output(formatting.store_as_text(occupants, free_bytes))


def _verify(options: argparse.Namespace) -> Output:
    if options.live == (options.directory is not None):
        raise OperationError("verify: expected either DIR or --live", hint="python -m serve verify --help")
    if options.live:
        found = _open(options).verify_live(options.timeout)
        text = json.dumps([asdict(each) for each in found]) if options.json else formatting.checked_as_text(found)
        return Output(text, _NO if any(each.differing or each.problem for each in found) else 0)
    verdicts = verify(options.directory)
    text = json.dumps(formatting.verdicts_as_json(verdicts)) if options.json else formatting.verdicts_as_text(verdicts)
    return Output(text, _NO if any(verdict.problem for verdict in verdicts) else 0)
