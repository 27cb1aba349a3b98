"""`POST /predict`: `{"inputs": [[…], …]}` to `{"outputs": […], "model": {…}}`.

The whole request runs on one generation, and the answer says on which. Where the server has several models,
`/predict/NAME` says which one; the header `X-Model-Label` asks for a label.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from serve.app.asking import Prediction, Take, ask
from serve.app.exchange import Answer, Request, fail, succeed
from serve.errors import RequestError
from serve.models import Aim
from serve.predictor import Predictor
from serve.provenance import Provenance
from serve.server import Server


def predict(server: Server, request: Request) -> Answer | Prediction:
    """Answer one prediction.

    Args:
        server: has the models.
        request: its bytes.

    Returns:
        In the end 200; 400 for a body that is not JSON, 404 for a model that is not served, 415 for a compressed body,
        422 for inputs that do not fit, 503 while no model is live.
    """
    aim = Aim(request.place.get("name"), request.place.get("version"), request.headers.get("x-model-label"))
    return ask(server, aim, request, _Native())


class _Native:
    def read(self, request: Request, predictor: Predictor) -> Take:
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise RequestError(415, f"Content-Encoding: expected none, found {encoding}")
        try:
            body = json.loads(bytes(request.body).decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"the body is not JSON: {error}") from error
        if not isinstance(body, dict) or set(body) != {"inputs"}:
            raise RequestError(422, 'the body: expected {"inputs": [[…], …]}')
        inputs = body["inputs"]
        return lambda predictor: predictor.take(inputs)

    def write(self, predictor: Predictor, given: Any, provenance: Provenance) -> Answer:
        return succeed({"outputs": predictor.give(given), "model": provenance.as_json()})

    def refuse(self, status: int, message: str, predictor: Predictor) -> Answer:
        if status != 422:
            return fail(status, message)
        return fail(status, message, expected_shape=list(predictor.expected_shape))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
