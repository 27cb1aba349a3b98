"""The commands on a fleet: who is in it, and what only a person can say of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Callable

import click

from serve.errors import OperationError
from serve.fleet.etcd import connect
from serve.fleet.keys import Transaction
from serve.fleet.messages import COMMITTED, NOW, PIN, REFUSED, View, name_entry, write
from serve.fleet.state import leave
from serve.settings.settings import load_settings
from serve.store.checkpoint_store import Store
from serve.store.ledger import Ledger


@click.group()
def fleet() -> None:
    """Show who is in the fleet, and say what only a person can.

    `serve rollback`, on any host, moves all of them.

    \b
      python -m serve fleet status
      python -m serve fleet evict HOST    # it is dead: swaps no longer wait for it
    """


class _Fleet:
    """The fleet of one model, as the settings name it."""

    def __init__(self, model: str | None) -> None:
        self.settings = load_settings(os.environ, Path.cwd()).find(model)
        if self.settings.commit != "fleet":
            raise OperationError(f'{self.settings.full_name}: expected commit = "fleet", found {self.settings.commit}')
        self._keys = connect(self.settings)

    def view(self) -> View:
        """Read what the hosts say now."""
        return View.parse(self._keys.read(NOW))

    def change(self, make: Callable[[View], Transaction]) -> View:
        """Carry out a transaction on what is there; again where something came in between. Returns what was there."""
        while True:
            view = self.view()
            if self._keys.commit(make(view)):
                return view


_model = click.option("--model", metavar="NAME[@LABEL]", help="Which one, where the server has several.")


@fleet.command()
@_model
def status(model: str | None) -> None:
    """Print as JSON what every host is, and what all of them do."""
    view = _Fleet(model).view()
    proposal, beats = view.proposal, {name: view.beat_of(name) for name in view.roster}
    hosts = {
        name: {**asdict(member), "beat": None if (beat := beats[name]) is None else asdict(beat)}
        for name, member in sorted(view.roster.items())
    }
    found = {
        "committed": None if view.committed is None else asdict(view.committed),
        "proposed": None if proposal is None else {"phase": proposal.phase, **asdict(proposal.entry)},
        "refused": {sha256: failure.reason for sha256, failure in view.refused.items()},
        "pin": view.pin,
        "driver": view.driver,
        "hosts": hosts,
    }
    click.echo(json.dumps(found, indent=1))


@fleet.command()
@_model
@click.argument("host")
def evict(model: str | None, host: str) -> None:
    """Take HOST for dead, so that swaps no longer wait for it.

    One that is alive and cut off would go on answering with the old generation.
    """
    fleet_of_model = _Fleet(model)
    if host not in (known := fleet_of_model.view().roster):
        raise OperationError(f"expected {' or '.join(sorted(known)) or 'no host'}, found {host}")
    fleet_of_model.change(lambda view: leave(view, host))
    click.echo(f"{host} is out; it joins anew when it reaches the fleet")


@fleet.command()
@_model
@click.option("--reason", default="an operator has pinned it", help="For people; status shows it.")
def pin(model: str | None, reason: str) -> None:
    """Stop automatic moves of all hosts; rollback still works."""
    _Fleet(model).change(lambda view: Transaction(puts={NOW + PIN: reason}))
    click.echo("pinned; unpin allows moves")


@fleet.command()
@_model
def unpin(model: str | None) -> None:
    """Allow automatic moves again."""
    was = _Fleet(model).change(lambda view: Transaction(deletes=(NOW + PIN,)))
    click.echo("there was no pin" if was.pin is None else "automatic moves are allowed again")


@fleet.command()
@_model
def retry(model: str | None) -> None:
    """Have what one host has refused judged anew; each host's own `serve retry` as well."""
    was = _Fleet(model).change(
        lambda view: Transaction(deletes=tuple(NOW + REFUSED + sha256 for sha256 in view.refused))
    )
    click.echo(f"{len(was.refused)} refused checkpoints may be proposed again")


@fleet.command()
@_model
def adopt(model: str | None) -> None:
    """Give an empty fleet the history of this host's store, which was served without one."""
    fleet_of_model = _Fleet(model)
    entries = Ledger(Store(fleet_of_model.settings.store)).read()
    if not entries or fleet_of_model.view().committed is not None:
        raise OperationError("expected a store with generations and a fleet without, found another case")
    puts = {name_entry(entry.generation): write(entry) for entry in entries}
    fleet_of_model.change(
        lambda view: Transaction({NOW + COMMITTED: 0}, puts={**puts, NOW + COMMITTED: write(entries[-1])})
    )
    click.echo(f"the fleet begins with generation {entries[-1].generation}")
