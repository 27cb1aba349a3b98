"""`POST /predict`: `{"inputs": [[…], …]}` to `{"outputs": […], "model": {…}}`.

The whole request runs on one generation, and the answer says on which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn

from serve.app.answer import Answer, fail, not_live, succeed
from serve.errors import InputError, NotLiveError
from serve.slot import Generation, Slot


def predict(slot: Slot, verdict: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """Answer one prediction.

    Args:
        slot: holds the live generation.
        verdict: what the reloader last said, for clients that come too early.
        headers: of the request.
        body: of the request.

    Returns:
        200; 400 for a body that is not JSON, 415 for a compressed one, 422 for inputs that do not fit, 503 while no
        model is live.
    """
    try:
        with slot.lease() as generation:
            return _predict_on(generation, headers, body)
    except NotLiveError:
        return not_live(verdict)


def _predict_on(generation: Generation, headers: Mapping[str, str], body: bytes) -> Answer:
    provenance = generation.provenance.as_headers()
    encoding = headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        return fail(415, f"Content-Encoding: expected none, found {encoding}", provenance)
    try:
        request = json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return fail(400, f"the body is not JSON: {error}", provenance)
    if not isinstance(request, dict) or set(request) != {"inputs"}:
        return fail(422, 'the body: expected {"inputs": [[…], …]}', provenance, **_expected(generation))
    try:
        outputs = generation.predictor.predict(request["inputs"])
    except InputError as error:
        return fail(422, str(error), provenance, **_expected(generation))
    try:
        return succeed({"outputs": outputs, "model": generation.provenance.as_json()}, provenance)
    except ValueError:
        return fail(500, "the model's outputs are not finite for these inputs", provenance)


def _expected(generation: Generation) -> dict[str, object]:
    return {"expected_shape": list(generation.predictor.expected_shape)}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
