"""The handlers that say how the worker is."""

from __future__ import annotations

from serve.app.answer import Answer, fail, not_live, succeed
from serve.slot import Slot


def livez(is_reloading: bool, verdict: str) -> Answer:
    """Say whether this process is worth keeping.

    Args:
        is_reloading: whether the reloader's thread is alive.
        verdict: what it last said.
    """
    return succeed({"live": True}) if is_reloading else fail(503, "the reloader is not running", reason=verdict)


def readyz(slot: Slot, verdict: str) -> Answer:
    """Say whether this worker can answer predictions.

    Args:
        slot: holds the live generation.
        verdict: what the reloader last said.
    """
    return succeed({"ready": True}) if slot.live is not None else not_live(verdict)


def model(slot: Slot, verdict: str) -> Answer:
    """Describe the live generation.

    Args:
        slot: holds it.
        verdict: what the reloader last said of the newest checkpoint.
    """
    live = slot.live
    if live is None:
        return not_live(verdict)
    shape = list(live.predictor.expected_shape)
    description = {**live.provenance.as_json(), **live.facts, "expected_shape": shape, "newest": verdict}
    return succeed(description, live.provenance.as_headers())
