"""TorchServe's inference interface: `/ping`, `/predictions/NAME` and what it says of models.

An answer is the outputs and nothing else; where it comes from stands in its headers.
"""

from __future__ import annotations

from typing import Any

from serve.checkpoint.provenance import Provenance
from serve.codec import strict_json
from serve.http.content_encoding import pack
from serve.http.messages import Answer, Request, fail, succeed
from serve.inference.model_selector import Found, describe
from serve.inference.prediction import Prediction, ask
from serve.inference.registry import Registry
from serve.model.predictor import Predictor
from serve.model.slot import Generation
from serve.protocols.media_types import PlainDialect

# Under one of these clients wrap what their handler takes.
_WRAPPERS = ("data", "body", "instances", "inputs")


def ping(server: Registry, request: Request) -> Answer:
    """Say whether this worker can answer predictions of every model."""
    is_healthy = all(model.stable.slot.live is not None for model in server.models.values())
    return succeed({"status": "Healthy"}) if is_healthy else fail(503, "no model is live yet")


def predictions(server: Registry, request: Request) -> Answer | Prediction:
    """Answer one prediction with the outputs alone.

    Args:
        server: has the models.
        request: its bytes.

    Returns:
        In the end 200; 4xx with `{"error": …}` for what cannot be answered, 503 while no model is live.
    """
    return ask(server, request, _TorchServe(request, server.settings.max_body_bytes))


class _TorchServe(PlainDialect):
    def _pick(self, content: object) -> object:
        if isinstance(content, dict) and len(content) == 1 and next(iter(content)) in _WRAPPERS:
            return next(iter(content.values()))
        return content

    def write(self, predictor: Predictor, given: Any, provenance: Provenance) -> Answer:
        body = strict_json.dump(predictor.give(given))
        return pack(Answer(200, {"Content-Type": "application/json"}, body), self._request)

    def refuse(self, status: int, message: str, predictor: Predictor) -> Answer:
        return fail(status, message)


def models(server: Registry, request: Request) -> Answer:
    """List the models."""
    return succeed(
        {
            "models": [
                {"modelName": name, "modelUrl": model.stable.settings.checkpoints.name}
                for name, model in server.models.items()
            ]
        }
    )


def model(server: Registry, request: Request) -> Answer:
    """Describe a model, or a version of it."""
    return describe(server, request, _write_model)


def _write_model(found: Found, live: Generation) -> Answer:
    return succeed(
        [
            {
                "modelName": found.model.name,
                "modelVersion": live.provenance.version,
                "modelUrl": found.runtime.settings.checkpoints.name,
                "runtime": "python",
                "loadedAtStartup": live.provenance.generation == 1,
                "metadata": live.provenance.as_json(),
            }
        ]
    )
