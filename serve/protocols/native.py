"""`POST /predict`: `{"inputs": [[…], …]}` to `{"outputs": […], "model": {…}}`.

Inputs may come as `.npy`, safetensors or an image as well, recognized by the content type or by their first bytes, and
outputs go as `.npy` or safetensors to clients that ask for them by `Accept`."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serve.checkpoint.provenance import Provenance
from serve.codec import image, npy, safetensors, strict_json
from serve.codec.datatypes import Array
from serve.errors import RequestError, excerpt
from serve.http.messages import Body, Request, Response, fail, pack, read_content
from serve.inference.body_layout import MATRIX, BodyLayout, find_numbers, write_lists
from serve.inference.prediction import Dialect, Prediction, Prepare, Registry, ask

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor

NPY, SAFETENSORS, IMAGE = "npy", "safetensors", "image"
_BY_TYPE = {
    **dict.fromkeys(npy.CONTENT_TYPES, NPY),
    **dict.fromkeys(safetensors.CONTENT_TYPES, SAFETENSORS),
    **dict.fromkeys(image.CONTENT_TYPES, IMAGE),
}
# None of them can begin a JSON text. Safetensors has no such beginning.
_BY_START = ((b"\x93NUMPY", NPY), (b"\x89PNG\r\n", IMAGE), (b"\xff\xd8\xff", IMAGE))
# Clients send forms by default without meaning them; these they mean, and the server cannot read them.
_UNREAD = ("multipart/", "image/", "audio/", "video/")


def detect(content_type: str | None, body: Body) -> str | None:
    """Tell the form of a body: `npy`, `safetensors`, `image`, or `None` for JSON; raises `RequestError` for others."""
    name = (content_type or "").partition(";")[0].strip().lower()
    if name in _BY_TYPE:
        return _BY_TYPE[name]
    for start, kind in _BY_START:
        if bytes(body[: len(start)]) == start:
            return kind
    if name.startswith(_UNREAD):
        raise RequestError(415, f"Content-Type: expected JSON or {', '.join(_BY_TYPE)}, found {name}")
    return None


def read_inputs(kind: str, body: Body, predictor: TorchPredictor) -> Prepare:
    """Read inputs that are not JSON, and return the function that turns them into what a predictor's module takes."""
    if kind == IMAGE:
        if not predictor.takes_images:
            raise RequestError(415, "the body: expected no image, as the model class has no image_to_inputs()")
        pixels = image.decode(bytes(body))
        return lambda predictor: predictor.prepare_image(pixels)
    names = [form.name for form in predictor.inputs]
    if not names:
        raise RequestError(415, f"the body: expected JSON, as this model's inputs are no arrays, found {kind}")
    if kind == NPY and len(names) > 1:
        raise RequestError(415, f"the body: expected {', '.join(names)} by name, found .npy, which has no names")
    arrays = safetensors.decode(bytes(body)) if kind == SAFETENSORS else {names[0]: npy.decode(bytes(body))}
    return lambda predictor: predictor.prepare_arrays(arrays)


def choose(accepted: str | None) -> str | None:
    """Choose the form of the outputs by the value of `Accept`: `npy`, `safetensors`, or `None` for JSON."""
    for part in (accepted or "").lower().split(","):
        kind = _BY_TYPE.get(part.partition(";")[0].strip())
        if kind in (NPY, SAFETENSORS):
            return kind
    return None


def write_outputs(kind: str, arrays: Mapping[str, Array]) -> tuple[str, bytes]:
    """Return the content type and the body; raises `ValueError` for outputs that do not go into this form."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name}: expected numbers for {kind}, found texts")
    if kind == SAFETENSORS:
        return safetensors.CONTENT_TYPES[0], safetensors.encode(arrays)
    if len(arrays) != 1:
        raise ValueError(f"expected one output for .npy, found {', '.join(arrays)}")
    return npy.CONTENT_TYPES[0], npy.encode(next(iter(arrays.values())))


class PlainDialect(Dialect):
    """Reads the inputs of one request, in JSON or as arrays."""

    def read(self, predictor: TorchPredictor) -> Prepare:
        """Understand the request."""
        body = read_content(self._request, self._limit_bytes)
        kind = detect(self._request.headers.get("content-type"), body)
        if kind is not None:
            return read_inputs(kind, body, predictor)
        inputs = self._pick(strict_json.parse(bytes(body)))
        return lambda predictor: predictor.prepare(inputs)

    def layout(self, predictor: TorchPredictor) -> BodyLayout | None:
        """Describe requests of one row of numbers in JSON; their answers are the rows as lists."""
        body, headers = bytes(self._request.body), self._request.headers
        if "content-encoding" in headers or detect(headers.get("content-type"), body) is not None:
            return None
        hole = find_numbers(body)
        form = predictor.inputs[0]
        if hole is None or self._pick(hole.probe) != MATRIX or len(form.shape) != len((1, hole.length)):
            return None
        return BodyLayout(form.name, "", (1, hole.length), hole.before, hole.after, write_lists, is_first=True)

    @abc.abstractmethod
    def _pick(self, content: object) -> object:
        """Find the inputs in a body of JSON; raises `RequestError` where there are none."""


def predict(server: Registry, request: Request) -> Response | Prediction:
    """Answer one prediction."""
    return ask(server, request, _Native)


class _Native(PlainDialect):
    def layout(self, predictor: TorchPredictor) -> BodyLayout | None:
        return None if choose(self._request.headers.get("accept")) else super().layout(predictor)

    def _pick(self, content: object) -> object:
        if not isinstance(content, dict) or set(content) != {"inputs"}:
            raise RequestError(422, f'the body: expected {{"inputs": [[…], …]}}, found {excerpt(content)}')
        return content["inputs"]

    def write(self, predictor: TorchPredictor, raw: Any, provenance: Provenance) -> Response:
        kind = choose(self._request.headers.get("accept"))
        if kind is None:
            content_type = "application/json"
            outputs = strict_json.dump(predictor.postprocess(raw))
            body = b'{"outputs":%b,"model":%b}' % (outputs, provenance.json_text)
        else:
            content_type, body = write_outputs(kind, predictor.postprocess_arrays(raw))
        return pack(Response(200, {"Content-Type": content_type}, body), self._request)

    def refuse(self, status: int, message: str, predictor: TorchPredictor) -> Response:
        shape = {"expected_shape": list(predictor.expected_shape)} if status == 422 else {}
        return fail(status, message, None, **shape)
