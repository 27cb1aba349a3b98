"""TorchServe's inference interface: `/ping`, `/predictions/NAME` and the descriptions of models.

An answer is the outputs and nothing else; its headers state where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from serve.checkpoint.provenance import Provenance
from serve.codec import strict_json
from serve.http.messages import Request, Response, fail, pack, succeed
from serve.inference.prediction import Found, Prediction, Registry, ask, describe_selected, select
from serve.model.slot import Generation
from serve.protocols.native import PlainDialect

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor

_WRAPPERS = ("data", "body", "instances", "inputs")  # clients wrap the inputs of their handler under one of these


def ping(server: Registry, request: Request) -> Response:
    """Say whether this worker can answer predictions of every model."""
    is_healthy = all(model.stable.slot.live is not None for model in server.models.values())
    return succeed({"status": "Healthy"}) if is_healthy else fail(503, "no model is live yet")


def predictions(server: Registry, request: Request) -> Response | Prediction:
    """Answer one prediction with the outputs alone."""
    return ask(server, request, _TorchServe)


class _TorchServe(PlainDialect):
    def _pick(self, content: object) -> object:
        if isinstance(content, dict) and len(content) == 1 and next(iter(content)) in _WRAPPERS:
            return next(iter(content.values()))
        return content

    def write(self, predictor: TorchPredictor, raw: Any, provenance: Provenance) -> Response:
        body = strict_json.dump(predictor.postprocess(raw))
        return pack(Response(200, {"Content-Type": "application/json"}, body), self._request)


def models(server: Registry, request: Request) -> Response:
    """List the models: `limit` of them from `next_page_token` on, and where the next page begins."""
    asked = parse_qs(request.query)
    try:
        limit, first = (int(asked.get(key, [value])[0]) for key, value in (("limit", "100"), ("next_page_token", "0")))
        if limit < 1 or first < 0:
            raise ValueError
    except ValueError:
        return fail(400, "limit, next_page_token: expected whole numbers from 1 and from 0 on, found others")
    shown = list(server.models.items())[first : first + limit]
    page = [{"modelName": name, "modelUrl": model.stable.settings.checkpoints.name} for name, model in shown]
    following = {"nextPageToken": str(first + limit)} if first + limit < len(server.models) else {}
    return succeed({**following, "models": page})


def model(server: Registry, request: Request) -> Response:
    """Describe a model, or a version of it."""
    return describe_selected(server, request, lambda found, live: succeed([_describe(found, live)]))


def versions(server: Registry, request: Request) -> Response:
    """Describe every version of a model that can be asked."""
    found = select(server, request)
    lives = [(instance, instance.slot.live) for instance in found.model.versions.values()]
    return succeed([_describe(Found(found.model, instance), live) for instance, live in lives if live is not None])


def _describe(found: Found, live: Generation) -> dict[str, object]:
    return {
        "modelName": found.model.name, "modelVersion": live.provenance.version,
        "modelUrl": found.instance.settings.checkpoints.name, "runtime": "python",
        "loadedAtStartup": live.provenance.generation == 1, "metadata": live.provenance.as_json(),
    }  # fmt: skip
