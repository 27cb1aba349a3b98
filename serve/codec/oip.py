"""Infer requests and answers of the Open Inference Protocol (V2), without the model's part.

Both are JSON, or JSON followed by the bytes of tensors; its length is in the header `Inference-Header-Content-Length`,
where 0 in a request means that all of its body is one tensor. Source: Open Inference Protocol, "Inference"; Triton's
binary tensor data extension."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

from serve.codec import datatypes, strict_json
from serve.codec.datatypes import Array
from serve.errors import RequestError, excerpt

Parameters = Mapping[str, Any]
# What would make the server do something that it cannot: to pass over it would answer another question.
_UNSUPPORTED = ("shared_memory_region", "classification", "sequence_id")
_REMEMBERED_TEXTS, _LONGEST_REMEMBERED_BYTES = 256, 4096  # clients send the same JSON over and over
_NO_PARAMETERS: Parameters = {}


class InputTensor(NamedTuple):
    """One input of a request; the elements of `BYTES` are objects of bytes."""

    name: str
    datatype: str
    array: Array


class RequestedOutput(NamedTuple):
    """One output that a request asks for."""

    name: str
    is_binary: bool


class InferRequest(NamedTuple):
    """An infer request."""

    inputs: tuple[InputTensor, ...]  # in the order of the request; names are unique
    outputs: tuple[RequestedOutput, ...] = ()  # the outputs that are wanted; empty for all of them
    is_binary: bool = False  # whether outputs that are not named are wanted as bytes
    id: str | None = None  # sent back with the answer
    parameters: Parameters = _NO_PARAMETERS  # of the request; unknown ones are kept


@dataclass(frozen=True)
class TensorSpec:
    """How a model describes one of its tensors; -1 in the shape stands for any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def as_json(self) -> dict[str, object]:
        """Return the tensor as the model's metadata have it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def parse_infer(body: Body, header_length: str | None = None) -> InferRequest:
    """Read an infer request with a JSON part, or raise `RequestError`; arrays from bytes are views of the body."""
    text, binary = split_body(body, header_length)
    is_worth_it = header_length is not None and len(text) <= _LONGEST_REMEMBERED_BYTES
    described, request = _remember(text) if is_worth_it else _understand(text)
    inputs, begin = [], 0
    for name, datatype, shape, where, size_bytes, data in described:
        if size_bytes is None:
            array = datatypes.from_json(data, datatype, shape, f"{where}: data")
        else:
            rest = len(binary) - begin
            if type(size_bytes) is not int or not 0 <= size_bytes <= rest:
                expected = f"binary_data_size: expected 0 to the {rest} bytes left"
                raise RequestError(400, f"{where}: {expected}, found {excerpt(size_bytes)}")
            array = datatypes.from_bytes(binary[begin : begin + size_bytes], datatype, shape, where)
            begin += size_bytes
        inputs.append(InputTensor(name, datatype, array))
    if begin != len(binary):
        raise RequestError(400, f"the body: expected {begin} bytes after its JSON part, found {len(binary)}")
    return InferRequest(tuple(inputs), request.outputs, request.is_binary, request.id, request.parameters)


# An input as the JSON has it: its name, datatype, shape, where it is, the size of its bytes behind the JSON, its data.
_Described = tuple[str, str, tuple[int, ...], str, object, object]


def _understand(text: bytes) -> tuple[tuple[_Described, ...], InferRequest]:
    """Read the JSON of a request: its inputs, whose bytes may follow, and the rest of it, which is never changed."""
    content = strict_json.parse(text, "the body")
    if not isinstance(content, dict):
        raise RequestError(400, f"the body: expected an object with inputs, found {excerpt(content)}")
    parameters = _parameters(content, "the request")
    inputs = tuple(_describe(entry, where) for entry, where in _entries(content.get("inputs"), "inputs"))
    if not inputs:
        raise RequestError(400, "inputs: expected at least one, found none")
    is_binary = _truth(parameters, "binary_data_output", False, "the request")
    listed = content.get("outputs")
    outputs = tuple(
        RequestedOutput(entry["name"], _truth(_parameters(entry, where), "binary_data", is_binary, where))
        for entry, where in _entries([] if listed is None else listed, "outputs")
    )
    id = content.get("id")
    if id is not None and not isinstance(id, str):
        raise RequestError(400, f"id: expected a text, found {excerpt(id)}")
    return inputs, InferRequest((), outputs, is_binary, id, parameters)


_remember = functools.lru_cache(_REMEMBERED_TEXTS)(_understand)


def parse_raw(body: Body, spec: TensorSpec) -> InferRequest:
    """Read a body that is the bytes of a model's only input, one length of which may be open; raises `RequestError`."""
    where = f"inputs[0] ({spec.name})"
    if spec.datatype == datatypes.BYTES:
        array = datatypes.text_array([bytes(body)]).reshape([1] * len(spec.shape))
    else:
        row_bytes = datatypes.DTYPES[spec.datatype].itemsize
        row_bytes *= math.prod(length for length in spec.shape if length >= 0)
        if spec.shape.count(-1) > 1 or not row_bytes:
            found = list(spec.shape)
            raise RequestError(400, f"{where}: expected a shape with one open length for raw bytes, found {found}")
        shape = tuple(len(body) // row_bytes if length < 0 else length for length in spec.shape)
        array = datatypes.from_bytes(memoryview(body), spec.datatype, shape, where)
    return InferRequest((InputTensor(spec.name, spec.datatype, array),), is_binary=True)


def _entries(found: object, key: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Go through the objects of a list, whose names must differ."""
    if not isinstance(found, list):
        raise RequestError(400, f"{key}: expected a list of tensors, found {excerpt(found)}")
    names: set[str] = set()
    for index, entry in enumerate(found):
        where = f"{key}[{index}]"
        if not isinstance(entry, dict):
            raise RequestError(400, f"{where}: expected an object, found {excerpt(entry)}")
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise RequestError(400, f"{where}: expected a name, found {excerpt(name)}")
        if name in names:
            raise RequestError(400, f"{where}: expected each name once, found {excerpt(name)} again")
        names.add(name)
        yield entry, f"{where} ({excerpt(name)})"


def _describe(entry: dict[str, Any], where: str) -> _Described:
    datatype = entry.get("datatype")
    if not isinstance(datatype, str) or datatype not in datatypes.READABLE:
        expected = f"expected a datatype of {', '.join(datatypes.READABLE)}"
        raise RequestError(400, f"{where}: datatype: {expected}, found {excerpt(datatype)}")
    shape = datatypes.require_shape(entry.get("shape"), f"{where}: shape")
    size_bytes = _parameters(entry, where).get("binary_data_size")
    if size_bytes is not None and "data" in entry:
        raise RequestError(400, f"{where}: expected data or binary_data_size, found both")
    return entry["name"], datatype, shape, where, size_bytes, entry.get("data")


def _parameters(entry: dict[str, Any], where: str) -> dict[str, Any]:
    found = entry.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RequestError(400, f"{where}: parameters: expected an object, found {excerpt(found)}")
    for name in _UNSUPPORTED:
        if found.get(name):
            raise RequestError(400, f"{where}: parameters: expected none that this server lacks, found {name}")
    return found


def _truth(parameters: Parameters, name: str, default: bool, where: str) -> bool:
    found = parameters.get(name, default)
    if not isinstance(found, bool):
        raise RequestError(400, f"{where}: {name}: expected true or false, found {excerpt(found)}")
    return found


HEADER = "Inference-Header-Content-Length"
Body = Union[bytes, bytearray, memoryview]
_DIGITS = re.compile(r"[0-9]{1,18}")


def split_body(body: Body, header_length: str | None) -> tuple[bytes, memoryview]:
    """Split a body into its JSON text and a view of the bytes after it; raises `RequestError` where it is shorter."""
    if header_length is None:
        return bytes(body), memoryview(b"")
    length = int(header_length) if _DIGITS.fullmatch(header_length.strip()) else len(body) + 1
    if length > len(body):
        raise RequestError(400, f"{HEADER}: expected 0 to {len(body)}, found {excerpt(header_length)}")
    return bytes(body[:length]), memoryview(body)[length:]


Part = Union[bytes, memoryview]
_Form = tuple[str, str, tuple[int, ...], Any]


class InferAnswer(NamedTuple):
    """What a model gives for a request."""

    model_name: str
    model_version: str
    outputs: Mapping[str, Array]
    parameters: Mapping[str, Any] = _NO_PARAMETERS


def encode_infer(answer: InferAnswer, request: InferRequest) -> tuple[dict[str, str], tuple[Part, ...]]:
    """Write an answer as its request wants it: the headers for the body, and its parts. Raises `RequestError` for an
    output that the model does not have, `ValueError` for NaN or infinities in JSON."""
    wanted = _wanted(tuple(answer.outputs), request)
    forms: list[_Form] = []
    parts: list[Part] = []
    for name, is_binary in wanted:
        array = answer.outputs[name]
        if is_binary:
            parts.append(datatypes.to_bytes(array))
            content: Any = len(parts[-1])
        else:
            content = datatypes.to_json(array, f"outputs ({name})")
        forms.append((name, datatypes.name_of(array.dtype), array.shape, content))
    name, version, id, parameters = answer.model_name, answer.model_version, request.id, answer.parameters
    # The same for many answers of a generation where all outputs go as bytes; an id is another one in each request.
    if id is None and len(parts) == len(wanted):
        text = _remembered_text(name, version, id, tuple(parameters.items()), tuple(forms))
    else:
        text = _text(name, version, id, parameters, forms)
    if wanted and not parts:
        return {"Content-Type": "application/json"}, (text,)
    return {"Content-Type": "application/octet-stream", HEADER: str(len(text))}, (text, *parts)


def _text(name: str, version: str, id: str | None, parameters: Any, forms: Sequence[_Form]) -> bytes:
    """Write the JSON of an answer; the last of an output's form is the size of its bytes, or its data."""
    answer: dict[str, object] = {"model_name": name, "model_version": version}
    if id is not None:
        answer["id"] = id
    if parameters:
        answer["parameters"] = dict(parameters)
    answer["outputs"] = [
        {"name": output, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": content}}
        if isinstance(content, int)
        else {"name": output, "datatype": datatype, "shape": list(shape), "data": content}
        for output, datatype, shape, content in forms
    ]
    return strict_json.dump(answer)


_remembered_text = functools.lru_cache(_REMEMBERED_TEXTS)(_text)


def _wanted(names: Sequence[str], request: InferRequest) -> list[tuple[str, bool]]:
    """List the outputs to send, in the order of the request, and whether each goes as bytes."""
    for output in request.outputs:
        if output.name not in names:
            raise RequestError(400, f"outputs: expected of {', '.join(names)}, found {excerpt(output.name)}")
    if not request.outputs:
        return [(name, request.is_binary) for name in names]
    return [(output.name, output.is_binary) for output in request.outputs]
