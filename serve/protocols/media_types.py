"""Inputs as JSON, `.npy`, safetensors or an image, told by the content type or by their first bytes."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from serve.codec import image, npy, safetensors, strict_json
from serve.errors import RequestError
from serve.http.content_encoding import read_content

if TYPE_CHECKING:
    from serve.codec.datatypes import Array
    from serve.http.messages import Body, Request
    from serve.inference.prediction import Take
    from serve.model.predictor import Predictor

NPY, SAFETENSORS, IMAGE = "npy", "safetensors", "image"
_BY_TYPE = {
    **dict.fromkeys(npy.CONTENT_TYPES, NPY),
    **dict.fromkeys(safetensors.CONTENT_TYPES, SAFETENSORS),
    **dict.fromkeys(image.CONTENT_TYPES, IMAGE),
}
# None of them can begin a JSON text. Safetensors has no such beginning.
_BY_START = ((b"\x93NUMPY", NPY), (b"\x89PNG\r\n", IMAGE), (b"\xff\xd8\xff", IMAGE))
# Clients send forms by default without meaning them; these they mean, and nobody here reads them.
_UNREAD = ("multipart/", "image/", "audio/", "video/")


def detect(content_type: str | None, body: Body) -> str | None:
    """Tell in which form a body comes.

    Args:
        content_type: of the request, where it was sent.
        body: of the request.

    Returns:
        `npy`, `safetensors`, `image`, or `None` for what has to be JSON.

    Raises:
        RequestError: the content type is one that nobody here reads.
    """
    name = (content_type or "").partition(";")[0].strip().lower()
    if name in _BY_TYPE:
        return _BY_TYPE[name]
    for start, kind in _BY_START:
        if bytes(body[: len(start)]) == start:
            return kind
    if name.startswith(_UNREAD):
        raise RequestError(415, f"Content-Type: expected JSON or {', '.join(_BY_TYPE)}, found {name}")
    return None


def read_inputs(kind: str, body: Body, predictor: Predictor) -> Take:
    """Read inputs that are not JSON.

    Args:
        kind: what `detect` returned.
        body: of the request.
        predictor: the model that will answer.

    Returns:
        What turns them into what the module of a predictor takes.

    Raises:
        RequestError: they are malformed, or the model does not take them in this form.
    """
    if kind == IMAGE:
        if not predictor.takes_images:
            raise RequestError(415, "the body: expected no image, as the model class has no image_to_inputs()")
        pixels = image.decode(bytes(body))
        return lambda predictor: predictor.prepare_image(pixels)
    names = [form.name for form in predictor.inputs]
    if not names:
        raise RequestError(415, f"the body: expected JSON, as this model's inputs are no arrays, found {kind}")
    arrays = safetensors.decode(bytes(body)) if kind == SAFETENSORS else _sole(npy.decode(bytes(body)), names)
    return lambda predictor: predictor.prepare_arrays(arrays)


def _sole(array: Array, names: Sequence[str]) -> dict[str, Array]:
    if len(names) != 1:
        raise RequestError(415, f"the body: expected {', '.join(names)} by name, found .npy, which has no names")
    return {names[0]: array}


def choose(accepted: str | None) -> str | None:
    """Tell in which form the outputs are wanted.

    Args:
        accepted: the value of `Accept`, where it was sent.

    Returns:
        `npy`, `safetensors`, or `None` for JSON.
    """
    for part in (accepted or "").lower().split(","):
        kind = _BY_TYPE.get(part.partition(";")[0].strip())
        if kind in (NPY, SAFETENSORS):
            return kind
    return None


def write_outputs(kind: str, arrays: Mapping[str, Array]) -> tuple[str, bytes]:
    """Write outputs in another form than JSON.

    Args:
        kind: what `choose` returned.
        arrays: by name.

    Returns:
        The content type, and the body.

    Raises:
        ValueError: the outputs do not go into this form.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name}: expected numbers for {kind}, found texts")
    if kind == SAFETENSORS:
        return safetensors.CONTENT_TYPES[0], safetensors.encode(arrays)
    if len(arrays) != 1:
        raise ValueError(f"expected one output for .npy, found {', '.join(arrays)}")
    return npy.CONTENT_TYPES[0], npy.encode(next(iter(arrays.values())))


def read_json(body: Body) -> object:
    """Read a body that is JSON.

    Args:
        body: of the request.

    Raises:
        RequestError: it is not.
    """
    content: object = strict_json.parse(bytes(body))
    return content


class PlainDialect(abc.ABC):
    """Reads the inputs of one request.

    Args:
        request: its bytes.
        limit_bytes: the longest body, decompressed.
    """

    def __init__(self, request: Request, limit_bytes: int) -> None:
        self._request, self._limit_bytes = request, limit_bytes

    def read(self, request: Request, predictor: Predictor) -> Take:
        """Understand a request; what the methods of a dialect are for is told in `serve.inference.prediction`."""
        body = read_content(request, self._limit_bytes)
        kind = detect(request.headers.get("content-type"), body)
        if kind is not None:
            return read_inputs(kind, body, predictor)
        inputs = self._pick(read_json(body))
        return lambda predictor: predictor.prepare(inputs)

    @abc.abstractmethod
    def _pick(self, content: object) -> object:
        """Find the inputs in a body of JSON; raises `RequestError` where there are none."""
