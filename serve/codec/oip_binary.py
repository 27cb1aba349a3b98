"""The bytes that follow the JSON of an infer request or answer.

Source: Triton's binary tensor data extension.
"""

from __future__ import annotations

import re
from typing import Union

from serve.codec.excerpt import excerpt
from serve.errors import RequestError

HEADER = "Inference-Header-Content-Length"
Body = Union[bytes, bytearray, memoryview]
_DIGITS = re.compile(r"[0-9]{1,18}")


def split_body(body: Body, header_length: str | None) -> tuple[bytes, memoryview]:
    """Part a body into its JSON and the bytes after it.

    Args:
        header_length: the value of `Inference-Header-Content-Length`, where it was sent.

    Returns:
        The JSON text, and a view of the rest.

    Raises:
        RequestError: the length is none, or goes beyond the body.
    """
    if header_length is None:
        return bytes(body), memoryview(b"")
    length = int(header_length) if _DIGITS.fullmatch(header_length.strip()) else len(body) + 1
    if length > len(body):
        raise RequestError(400, f"{HEADER}: expected 0 to {len(body)}, found {excerpt(header_length)}")
    return bytes(body[:length]), memoryview(body)[length:]


def is_raw(header_length: str | None) -> bool:
    """Whether all of a body is one tensor.

    Args:
        header_length: the value of `Inference-Header-Content-Length`, where it was sent.
    """
    return header_length is not None and header_length.strip() == "0"


class BinaryPart:
    """Hands out the bytes after the JSON, in the order of the inputs."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def take(self, size_bytes: object, where: str) -> memoryview:
        """Take the next bytes.

        Args:
            size_bytes: how many, as the request states it.

        Returns:
            A view, no copy.

        Raises:
            RequestError: it is no size, or more than is left.
        """
        rest = len(self._data) - self._position
        if type(size_bytes) is not int or not 0 <= size_bytes <= rest:
            raise RequestError(
                400, f"{where}: binary_data_size: expected 0 to the {rest} bytes left, found {excerpt(size_bytes)}"
            )
        begin, self._position = self._position, self._position + size_bytes
        return self._data[begin : self._position]

    def require_end(self) -> None:
        """Refuse bytes that belong to no tensor.

        Raises:
            RequestError: there are some.
        """
        rest = len(self._data) - self._position
        if rest:
            raise RequestError(
                400, f"the body: expected {self._position} bytes after its JSON part, found {len(self._data)}"
            )
