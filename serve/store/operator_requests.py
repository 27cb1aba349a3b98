"""Requests of operators: an older version back, no automatic moves, or nothing served at all.

Files beside the store, so that an order reaches every worker, needs no port, and waits for a server that is down. The
commands write them; the reloader reads them at each look."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from serve import durable_files
from serve.errors import LedgerError
from serve.events.event_log import now
from serve.store.ledger import PROMOTION, ROLLBACK, Entry


@dataclass(frozen=True)
class Rollback:
    """The order to serve an older version as a new generation, or that of the store of another label, at `path`."""

    id: str
    generation: int
    sha256: str
    version: str
    ordered: str
    path: str = ""
    entry: Mapping[str, Any] | None = None

    @property
    def cause(self) -> str:
        """What the ledger has as the cause of the generation that carries it out."""
        return PROMOTION if self.path else ROLLBACK

    @property
    def fingerprint(self) -> str:
        """What the ledger and the quarantine know the order by."""
        return f"{self.cause}:{self.id}"

    def propose(self, earlier: Entry) -> Entry:
        """Return the generation that carries it out, of the earlier one's rank: what it replaces stays the newest."""
        own: dict[str, Any] = {"version": self.version, "fingerprint": self.fingerprint, "cause": self.cause}
        return replace(earlier, generation=0, committed="", **own)


@dataclass(frozen=True)
class Pin:
    """The order to make no automatic moves."""

    generation: int
    version: str
    sha256: str
    pinned: str
    reason: str = ""


class OperatorRequests:
    """The files of one host's orders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._rollback, self._pin = root / "rollback.json", root / "pin.json"
        self._unloaded, self._check = root / "unloaded.json", root / "check.json"

    def rollback(self) -> Rollback | None:
        """Return the last rollback that was ordered, done or not."""
        stated = _read(self._rollback)
        return None if stated is None else Rollback(**stated)

    def pin(self) -> Pin | None:
        """Return the pin, or `None` when automatic moves are allowed."""
        stated = _read(self._pin)
        return None if stated is None else Pin(**stated)

    def order_rollback(self, entry: Entry) -> Rollback:
        """Order an older version."""
        order = Rollback(uuid.uuid4().hex, entry.generation, entry.sha256, entry.version, now())
        self._write(self._rollback, asdict(order))
        return order

    def order_promotion(self, id: str, entry: Entry, path: Path) -> None:
        """Order what another label serves; one id is carried out once. Raises `OSError`."""
        order = Rollback(id, entry.generation, entry.sha256, entry.version, now(), str(path), asdict(entry))
        self._write(self._rollback, asdict(order))

    def withdraw(self, order: Rollback) -> None:
        """Take a rollback back, unless another one was ordered since."""
        if self.rollback() == order:
            self._rollback.unlink()

    def order_pin(self, entry: Entry, reason: str) -> Pin:
        """Stop automatic moves."""
        pin = Pin(entry.generation, entry.version, entry.sha256, now(), reason)
        self._write(self._pin, asdict(pin))
        return pin

    def unpin(self) -> bool:
        """Allow automatic moves again, and return whether they were stopped."""
        try:
            self._pin.unlink()
        except FileNotFoundError:
            return False
        return True

    def is_unloaded(self) -> bool:
        """Whether nothing is to be served."""
        return self._unloaded.exists()

    def order_unload(self) -> None:
        """Serve nothing, until `order_load`."""
        self._write(self._unloaded, {"ordered": now()})

    def order_load(self) -> None:
        """Serve again what is committed."""
        self._unloaded.unlink(missing_ok=True)

    def check(self) -> str:
        """Return the id of the comparison of live weights that is ordered, or nothing."""
        return str((_read(self._check) or {}).get("id", ""))

    def order_check(self) -> str:
        """Have each worker compare its live weights with their checkpoint; return the id of the order."""
        id = uuid.uuid4().hex
        self._write(self._check, {"id": id, "ordered": now()})
        return id

    def withdraw_check(self) -> None:
        """Take that order back."""
        self._check.unlink(missing_ok=True)

    def _write(self, path: Path, stated: dict[str, object]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        durable_files.replace_file(path, json.dumps(stated, indent=1).encode() + b"\n")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        stated = json.loads(path.read_bytes())
        if not isinstance(stated, dict):
            raise ValueError(type(stated).__name__)
        return stated
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LedgerError(f"{path}: expected a JSON object, found {error}", hint="delete the file") from error
