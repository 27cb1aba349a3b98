"""What operators have ordered, carried out in one worker: rollback, pin, unload."""

from __future__ import annotations

from serve.source.observation import Ignore, Wait
from serve.store.judgement import Rejection
from serve.swap.admission import say_refused
from serve.swap.committer import Committer
from serve.swap.context import Context, Loader
from serve.swap.generation import identify


def roll_back(parts: Context, committer: Committer, loader: Loader) -> Ignore | Wait | None:
    """Carry out the last rollback that was ordered, unless it is done.

    Returns:
        What became of it; `None` when nothing is ordered.
    """
    order = parts.operator_requests.rollback()
    if order is None or committer.is_done(order) or parts.quarantine.find(order.fingerprint):
        return None
    entries = [entry for entry in parts.ledger.read() if entry.sha256 == order.sha256]
    stored = parts.store.find(order.sha256)
    if stored is None or not entries:
        reason = f"the rollback to {order.version}: its checkpoint is not in the store any more"
        refusal = Rejection(order.version, "store", reason, order.fingerprint, version=order.version)
        return say_refused(parts, refusal, committer.kept)
    return committer.move(loader, stored, order.propose(entries[-1]))


def is_unloaded(parts: Context) -> bool:
    """Serve nothing where that is ordered, and say whether it is; what was live drains."""
    if not parts.operator_requests.is_unloaded():
        return False
    live = parts.slot.live
    if live is not None:
        parts.slot.vacate()
        parts.log.emit("unloaded", **identify(live))
    return True


def is_pinned(parts: Context) -> str | None:
    """Say why there are no automatic moves, or `None` when there are."""
    pin = parts.operator_requests.pin()
    return None if pin is None else f"pinned to version {pin.version} since {pin.pinned}"
