"""Answers of the Open Inference Protocol (V2): JSON, and bytes after it for the outputs that are wanted so."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Union

from serve.codec import datatypes, elements, strict_json
from serve.codec.datatypes import HEADER, Array
from serve.codec.excerpt import excerpt
from serve.codec.oip_request import InferRequest
from serve.errors import RequestError

Part = Union[bytes, memoryview]
_NO_PARAMETERS: Mapping[str, Any] = {}
_REMEMBERED_TEXTS = 256


class InferAnswer(NamedTuple):
    """What a model gives for a request."""

    model_name: str
    model_version: str
    outputs: Mapping[str, Array]
    parameters: Mapping[str, Any] = _NO_PARAMETERS


def encode_infer(answer: InferAnswer, request: InferRequest) -> tuple[dict[str, str], tuple[Part, ...]]:
    """Write an answer in the form that its request asks for: the headers for the body, and its parts.

    Raises:
        RequestError: an output is wanted that the model does not have.
        ValueError: an output has NaN or infinities, and is wanted as JSON.
    """
    wanted = _wanted(tuple(answer.outputs), request)
    forms: list[tuple[str, str, tuple[int, ...], int]] = []
    parts: list[Part] = []
    for name, is_binary in wanted:
        if not is_binary:
            return _encode_mixed(answer, request, wanted)
        array = answer.outputs[name]
        parts.append(datatypes.to_bytes(array))
        forms.append((name, datatypes.name_of(array.dtype), array.shape, len(parts[-1])))
    # An id is another one in each request.
    write = _text if request.id is None else _text.__wrapped__
    text = write(answer.model_name, answer.model_version, request.id, tuple(answer.parameters.items()), tuple(forms))
    return _headers(text), (text, *parts)


def _encode_mixed(
    answer: InferAnswer, request: InferRequest, wanted: Sequence[tuple[str, bool]]
) -> tuple[dict[str, str], tuple[Part, ...]]:
    described: list[dict[str, object]] = []
    parts: list[Part] = []
    for name, is_binary in wanted:
        array = answer.outputs[name]
        output = _form(name, datatypes.name_of(array.dtype), array.shape)
        if is_binary:
            parts.append(datatypes.to_bytes(array))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = elements.to_json(array, f"outputs ({name})")
        described.append(output)
    frame = _frame(answer.model_name, answer.model_version, request.id, answer.parameters)
    text = strict_json.dump({**frame, "outputs": described})
    return _headers(text) if parts else {"Content-Type": "application/json"}, (text, *parts)


@functools.lru_cache(_REMEMBERED_TEXTS)
def _text(
    name: str,
    version: str,
    id: str | None,
    parameters: tuple[tuple[str, object], ...],
    forms: tuple[tuple[str, str, tuple[int, ...], int], ...],
) -> bytes:
    """Write the JSON before outputs that all go as bytes; it is the same for many answers of a generation."""
    outputs = [
        {**_form(output, datatype, shape), "parameters": {"binary_data_size": size}}
        for output, datatype, shape, size in forms
    ]
    return strict_json.dump({**_frame(name, version, id, dict(parameters)), "outputs": outputs})


def _headers(text: bytes) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", HEADER: str(len(text))}


def _form(name: str, datatype: str, shape: Sequence[int]) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def _frame(name: str, version: str, id: str | None, parameters: Mapping[str, Any]) -> dict[str, object]:
    frame: dict[str, object] = {"model_name": name, "model_version": version}
    if id is not None:
        frame["id"] = id
    if parameters:
        frame["parameters"] = dict(parameters)
    return frame


def _wanted(names: Sequence[str], request: InferRequest) -> list[tuple[str, bool]]:
    """List the outputs to send, in the order of the request, and whether each goes as bytes."""
    for output in request.outputs:
        if output.name not in names:
            raise RequestError(400, f"outputs: expected of {', '.join(names)}, found {excerpt(output.name)}")
    if not request.outputs:
        return [(name, request.is_binary) for name in names]
    return [(output.name, output.is_binary) for output in request.outputs]
