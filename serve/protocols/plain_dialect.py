"""What the protocols without a form of their own have in common: a body of JSON, an array file or an image."""

from __future__ import annotations

import abc

from serve.http.content_encoding import read_content
from serve.http.messages import Request
from serve.inference.prediction import Take
from serve.model.predictor import Predictor
from serve.protocols.media_types import detect, read_inputs, read_json


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
        return lambda predictor: predictor.take(inputs)

    @abc.abstractmethod
    def _pick(self, content: object) -> object:
        """Find the inputs in a body of JSON; raises `RequestError` where there are none."""
