"""Answers of the Open Inference Protocol (V2): JSON, and bytes after it for the outputs that are wanted so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from serve.codec import datatypes, elements, strict_json
from serve.codec.datatypes import Array
from serve.codec.excerpt import excerpt
from serve.codec.v2 import InferRequest
from serve.codec.v2_binary import HEADER
from serve.errors import RequestError

Part = Union[bytes, memoryview]


@dataclass(frozen=True)
class InferAnswer:
    """What a model gives for a request.

    Args:
        model_name: as the client knows it.
        model_version: that answered.
        outputs: all outputs by name.
        parameters: of the answer.
    """

    model_name: str
    model_version: str
    outputs: Mapping[str, Array]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def encode_infer(answer: InferAnswer, request: InferRequest) -> tuple[dict[str, str], tuple[Part, ...]]:
    """Write an answer in the form that its request asks for.

    Args:
        answer: of the model.
        request: says which outputs are wanted, and how.

    Returns:
        The headers that tell of the body, and the parts of the body.

    Raises:
        RequestError: an output is wanted that the model has not.
        ValueError: an output has NaN or infinities, and is wanted as JSON.
    """
    described: list[dict[str, object]] = []
    parts: list[Part] = []
    for name, is_binary in _wanted(tuple(answer.outputs), request):
        array = answer.outputs[name]
        output: dict[str, object] = {
            "name": name,
            "datatype": datatypes.name_of(array.dtype),
            "shape": list(array.shape),
        }
        if is_binary:
            parts.append(datatypes.to_bytes(array))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = elements.to_json(array, f"outputs ({name})")
        described.append(output)
    text = strict_json.dump({**_frame(answer, request), "outputs": described})
    if not parts:
        return {"Content-Type": "application/json"}, (text,)
    headers = {"Content-Type": "application/octet-stream", HEADER: str(len(text))}
    return headers, (text, *parts)


def _frame(answer: InferAnswer, request: InferRequest) -> dict[str, object]:
    frame: dict[str, object] = {"model_name": answer.model_name, "model_version": answer.model_version}
    if request.id is not None:
        frame["id"] = request.id
    if answer.parameters:
        frame["parameters"] = dict(answer.parameters)
    return frame


def _wanted(names: Sequence[str], request: InferRequest) -> list[tuple[str, bool]]:
    """List the outputs to send, in the order of the request, and whether each goes as bytes."""
    for output in request.outputs:
        if output.name not in names:
            raise RequestError(400, f"outputs: expected of {', '.join(names)}, found {excerpt(output.name)}")
    if not request.outputs:
        return [(name, request.is_binary) for name in names]
    return [(output.name, output.is_binary) for output in request.outputs]
