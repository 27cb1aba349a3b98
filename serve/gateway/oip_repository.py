"""The model repository and statistics extensions of the Open Inference Protocol (V2), as Triton has them.

The settings and what a trainer publishes decide what is served, not requests: `load` has the watched directory looked
at now, brings back what was unloaded, and answers when that is live or refused; `unload` is refused unless the settings
allow it. Counted is what all workers have answered since the server started, under whatever protocol and version; times
are sums of the metrics that Prometheus reads, so they lag by up to a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from serve.codec import strict_json
from serve.errors import RequestError, excerpt
from serve.http.messages import Request, Response, fail, read_content, succeed
from serve.inference.prediction import Model, select

if TYPE_CHECKING:
    from serve.gateway.server import Server
    from serve.inference.model_instance import ModelInstance
    from serve.metrics.worker_metrics import Traffic


def index(server: Server, request: Request) -> Response:
    """List the models and the state of each of their labels."""
    is_ready = _options(server, request).get("ready", False)
    if not isinstance(is_ready, bool):
        return fail(400, f"ready: expected true or false, found {excerpt(is_ready)}")
    models = server.models.values()
    listed = [_entry(model, label, instance) for model in models for label, instance in model.labels.items()]
    return succeed([entry for entry in listed if not is_ready or entry["state"] == "READY"])


def _entry(model: Model, label: str, instance: ModelInstance) -> dict[str, object]:
    live = instance.slot.live
    facts = {"name": model.name, "label": label, "reason": instance.reloader.status.verdict}
    if live is not None:
        return {**facts, "version": live.provenance.version, "state": "READY"}
    return {**facts, "version": "", "state": "LOADING" if instance.is_loading else "UNAVAILABLE"}


def load(server: Server, request: Request) -> Response:
    """Have the watched directories of a model looked at now, and say whether their content is live or was refused."""
    model = server.find(request.place["name"])
    parameters = _options(server, request).get("parameters")
    if parameters:
        return fail(400, f"parameters: expected none, as the settings say how to serve, found {excerpt(parameters)}")
    for instance in model.labels.values():
        instance.operator_requests.order_load()
    asked = [(instance, instance.reloader.look_now()) for instance in model.labels.values() if instance.is_reloading]
    for instance, number in asked:
        outcome = instance.reloader.wait_for(number, instance.settings.commit_timeout_s)
        if outcome is None:
            return fail(503, f"{model.name}: it is still being loaded", reason=instance.reloader.status.verdict)
        # A canary or a shadow need not have anything to serve.
        if outcome.is_refused or (instance is model.stable and not outcome.is_live):
            return fail(400, f"{model.name}: {outcome.verdict}")
    return succeed({"name": model.name, "state": _entry(model, "", model.stable)["state"]})


def unload(server: Server, request: Request) -> Response:
    """Stop serving a model in all workers, where the settings allow it; until `load`, also after a restart."""
    model = server.find(request.place["name"])
    if any(instance.settings.unload != "allow" for instance in model.labels.values()):
        said = 'expected to be served, as the settings say; unload = "allow" lets it be unloaded'
        return fail(400, f"{model.name}: {said}")
    for instance in model.labels.values():
        instance.operator_requests.order_unload()
        instance.reloader.look_now()
    return succeed({"name": model.name, "state": "UNLOADING"})


def _options(server: Server, request: Request) -> dict[str, object]:
    body = read_content(request, server.settings.max_body_bytes)
    found = strict_json.parse(bytes(body)) if len(body) else {}
    if not isinstance(found, dict):
        raise RequestError(400, f"the body: expected an object or nothing, found {excerpt(found)}")
    return found


_NS = 1_000_000_000


def statistics(server: Server, request: Request) -> Response:
    """Tell how many predictions a model, or every model, has answered, and how long they took."""
    models = [select(server, request).model] if "name" in request.place else server.models.values()
    traffic = server.telemetry.worker_metrics.traffic()
    found = {model: [of for (name, _), of in traffic.items() if name == model.name] for model in models}
    return succeed({"model_stats": [_describe(model, of_labels) for model, of_labels in found.items()]})


def _describe(model: Model, of_labels: Sequence[Traffic]) -> dict[str, object]:
    live = model.stable.slot.live
    requests, failures = sum(of.requests for of in of_labels), sum(of.failures for of in of_labels)
    answered = requests - failures
    return {
        "name": model.name,
        "version": live.provenance.version if live else "",
        "inference_count": int(sum(of.rows for of in of_labels)) or answered,
        "execution_count": int(sum(of.batches for of in of_labels)) or answered,
        "inference_stats": {
            "success": {"count": answered, "ns": int(sum(of.seconds for of in of_labels) * _NS)},
            "fail": {"count": failures, "ns": 0},
            "queue": {"count": requests, "ns": int(sum(of.queue_seconds for of in of_labels) * _NS)},
        },
    }
