"""What the commands share: options, the store that they are about, and one answer as text or as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable, TypeVar

import click

from serve.settings.settings import Settings, load_settings

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
model_option = click.option("--model", metavar="NAME[@LABEL]", help="Which one, where the server has several.")
_store = "The server's store; that of the settings by default."


def on_a_store(command: Command) -> Command:
    """Add the options that every command on a store has."""
    return click.option("--store", "root", type=PATH, metavar="DIR", help=_store)(model_option(json_option(command)))


def settings_of(model: str | None) -> Settings:
    """Return how a model is to be served."""
    return load_settings(os.environ, Path.cwd()).find(model)


def answer(as_json: bool, facts: object, text: str) -> None:
    """Print an answer."""
    click.echo(json.dumps(facts) if as_json else text)
