"""`POST /predict`: `{"inputs": [[…], …]}` to `{"outputs": […], "model": {…}}`.

Inputs may come as `.npy`, safetensors or an image as well, told by the content type, and outputs go as `.npy` or
safetensors to who asks for them by `Accept`. The whole request runs on one generation, and the answer says on which.
Where the server has several models, `/predict/NAME` says which one; the header `X-Model-Label` asks for a label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serve.codec import strict_json
from serve.codec.excerpt import excerpt
from serve.errors import RequestError
from serve.http.content_encoding import pack
from serve.http.messages import Request, Response, fail
from serve.inference.prediction import Prediction, ask
from serve.protocols.media_types import PlainDialect, choose, write_outputs

if TYPE_CHECKING:
    from serve.checkpoint.provenance import Provenance
    from serve.inference.registry import Registry
    from serve.model.predictor import Predictor


def predict(server: Registry, request: Request) -> Response | Prediction:
    """Answer one prediction.

    Args:
        server: has the models.
        request: its bytes.

    Returns:
        In the end 200; 400 for a body that is malformed, 404 for a model that is not served, 415 for a form that nobody
        reads, 422 for inputs that do not fit, 503 while no model is live.
    """
    return ask(server, request, _Native(request, server.settings.max_body_bytes))


class _Native(PlainDialect):
    def _pick(self, content: object) -> object:
        if not isinstance(content, dict) or set(content) != {"inputs"}:
            raise RequestError(422, f'the body: expected {{"inputs": [[…], …]}}, found {excerpt(content)}')
        return content["inputs"]

    def write(self, predictor: Predictor, given: Any, provenance: Provenance) -> Response:
        kind = choose(self._request.headers.get("accept"))
        if kind is None:
            content_type = "application/json"
            outputs = strict_json.dump(predictor.postprocess(given))
            body = b'{"outputs":%b,"model":%b}' % (outputs, provenance.json_text)
        else:
            content_type, body = write_outputs(kind, predictor.postprocess_arrays(given))
        return pack(Response(200, {"Content-Type": content_type}, body), self._request)

    def refuse(self, status: int, message: str, predictor: Predictor) -> Response:
        if status != 422:
            return fail(status, message)
        return fail(status, message, expected_shape=list(predictor.expected_shape))
