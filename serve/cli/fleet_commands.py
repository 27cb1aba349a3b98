"""The commands on a fleet: who is in it, and what only a person can say of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Callable

import click

from serve.cli.options import model_option, settings_of
from serve.errors import OperationError
from serve.fleet.carriers import connect
from serve.fleet.keys import Transaction
from serve.fleet.messages import ALL, COMMITTED, PIN, View, name_entry, write
from serve.fleet.state import leave
from serve.fleet.status import describe
from serve.settings.settings import Settings
from serve.store.checkpoint_store import Store
from serve.store.ledger import Ledger

if TYPE_CHECKING:
    from serve.fleet.carriers import Keys


@click.group()
def fleet() -> None:
    """Show who is in the fleet, and say what only a person can.

    `serve rollback`, on any host, moves all of them.

    \b
      python -m serve fleet status
      python -m serve fleet evict HOST    # it is dead: swaps no longer wait for it
    """


def _open(model: str | None) -> tuple[Settings, Keys]:
    settings = settings_of(model)
    if settings.commit != "fleet":
        raise OperationError(f'commit: expected "fleet", found "{settings.commit}"')
    return settings, connect(settings)


def _change(keys: Keys, make: Callable[[View], Transaction]) -> View:
    """Carry out a transaction on what is there; again where something came in between. Returns what was there."""
    while True:
        view = View.parse(keys.read(*ALL))
        if keys.commit(make(view)):
            return view


@fleet.command()
@model_option
def status(model: str | None) -> None:
    """Print as JSON what every host is, and what all of them do.

    Each with its generation, phase, lease and environment, and why it is out.
    """
    click.echo(json.dumps(describe(_open(model)[1]), indent=1))


@fleet.command()
@model_option
@click.argument("host")
def evict(model: str | None, host: str) -> None:
    """Take HOST for dead, so that swaps no longer wait for it.

    One that is alive and cut off would go on answering with the old generation.
    """
    keys = _open(model)[1]
    if host not in (known := View.parse(keys.read(*ALL)).roster):
        raise OperationError(f"expected {' or '.join(sorted(known)) or 'no host'}, found {host}")
    _change(keys, lambda view: leave(view, host))
    click.echo(f"{host} is out; it joins anew when it reaches the fleet")


@fleet.command()
@model_option
@click.option("--reason", default="an operator has pinned it", help="For people; status shows it.")
def pin(model: str | None, reason: str) -> None:
    """Stop automatic moves of all hosts; rollback still works."""
    _change(_open(model)[1], lambda view: Transaction(puts={PIN: reason}))
    click.echo("pinned; unpin allows moves")


@fleet.command()
@model_option
def unpin(model: str | None) -> None:
    """Allow automatic moves again."""
    was = _change(_open(model)[1], lambda view: Transaction(deletes=(PIN,)))
    click.echo("automatic moves are allowed again" if was.text(PIN) else "there was no pin")


@fleet.command()
@model_option
def adopt(model: str | None) -> None:
    """Give an empty fleet the history of this host's store, which was served without one."""
    settings, keys = _open(model)
    entries = Ledger(Store(settings.store)).read()
    puts = {name_entry(entry.generation): write(entry) for entry in entries}
    last = {COMMITTED: write(entries[-1])} if entries else {}
    if not last or not keys.commit(Transaction({COMMITTED: 0}, puts={**puts, **last})):
        raise OperationError("expected a store with generations and a fleet without, found another case")
    click.echo(f"the fleet begins with generation {entries[-1].generation}")
