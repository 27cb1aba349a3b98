"""The handlers of liveness, readiness and the live model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from serve.http.messages import Request, Response, fail, not_live, succeed
from serve.settings.settings import STABLE

if TYPE_CHECKING:
    from serve.gateway.server import Server
    from serve.inference.model_instance import ModelInstance

_MOST_SHOWN = 1000  # numbers and texts of an example, for a person to read


def livez(server: Server, request: Request) -> Response:
    """Say whether this process is worth keeping."""
    dead = [one for one in server.instances if not one.is_reloading]
    if dead:
        return fail(503, "the reloader is not running", reason=_verdicts(dead))
    empty = [one for one in server.instances if one.slot.live is None]
    waiting = [one for one in empty if not one.operator_requests.is_unloaded()]
    if not waiting:
        return succeed({"live": True})
    reason = _verdicts(waiting)
    if waiting[0].hanging:  # a restart could help
        return fail(503, "nothing is live, and a warm-up that was given up still runs", reason=reason)
    return succeed({"live": True, "reason": reason, "hint": "a restart does not help: what may pass is tried again"})


def _verdicts(instances: Iterable[ModelInstance]) -> str:
    return "; ".join(instance.reloader.status.verdict for instance in instances)


def readyz(server: Server, request: Request) -> Response:
    """Say whether this worker can answer predictions, of every model, and will go on doing so."""
    if server.telemetry.drain.has_begun:
        return fail(503, "the server is shutting down")
    if any(model.stable.is_cut_off for model in server.models.values()):
        return not_live("the fleet has not taken this host in, or is out of its reach")
    waiting = [model.stable for model in server.models.values() if model.stable.slot.live is None]
    return not_live(_verdicts(waiting)) if waiting else succeed({"ready": True})


def model(server: Server, request: Request) -> Response:
    """Describe the live generation of a model, and its other labels."""
    found = server.find(request.place.get("name"))
    live = found.stable.slot.live
    if live is None:
        return not_live(found.stable.reloader.status.verdict)
    predictor = live.predictor
    forms = {"inputs": predictor.inputs, "outputs": predictor.outputs}
    labels = {
        label: None if instance.slot.live is None else instance.slot.live.provenance.as_json()
        for label, instance in found.labels.items()
        if label != STABLE
    }
    description = {
        **live.provenance.as_json(),
        **live.facts,
        "expected_shape": list(predictor.expected_shape),
        **{name: [{**vars(form), "shape": list(form.shape)} for form in forms[name]] for name in forms},
        **({"example": predictor.example} if _count(predictor.example) <= _MOST_SHOWN else {}),
        "can_batch": predictor.can_batch and found.stable.shared_state.unbatched != live.provenance.generation,
        **({"labels": labels} if labels else {}),
        "newest": found.stable.reloader.status.verdict,
    }
    return succeed(description, live.provenance.headers)


def _count(value: object) -> int:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return 1 + sum(map(_count, parts))
