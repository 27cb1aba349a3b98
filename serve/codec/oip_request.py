"""Infer requests of the Open Inference Protocol (V2), without the model's part.

An infer request is JSON, or JSON followed by the bytes of its tensors, whose length the header
`Inference-Header-Content-Length` tells; 0 there means that all of the body is one tensor. Tensors as bytes are
read by `serve.codec.datatypes`.

Source: Open Inference Protocol, "Inference"; Triton's binary tensor data extension.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from serve.codec import datatypes, elements, strict_json
from serve.codec.datatypes import Array, BinaryPart, Body, split_body
from serve.codec.excerpt import excerpt
from serve.errors import RequestError

Parameters = Mapping[str, Any]
# What would make the server do something that it cannot: to pass over it would answer another question.
_UNSUPPORTED = ("shared_memory_region", "classification", "sequence_id")
# A client whose tensors go as bytes sends the same JSON before them over and over.
_REMEMBERED_TEXTS, _LONGEST_REMEMBERED_BYTES = 256, 4096
_NO_PARAMETERS: Parameters = {}


class InputTensor(NamedTuple):
    """One input of a request; the elements of `BYTES` are objects of bytes."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True)
class RequestedOutput:
    """One output that a request asks for."""

    name: str
    is_binary: bool


class InferRequest(NamedTuple):
    """An infer request.

    Args:
        inputs: in the order of the request; names are unique.
        outputs: the outputs that are wanted; empty for all of them.
        is_binary: whether outputs that are not named are wanted as bytes.
        id: sent back with the answer.
        parameters: of the request; unknown ones are kept.
    """

    inputs: tuple[InputTensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    is_binary: bool = False
    id: str | None = None
    parameters: Parameters = _NO_PARAMETERS


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
    """Read an infer request that has a JSON part; arrays that came as bytes are views of the body.

    Raises:
        RequestError: it is malformed.
    """
    text, binary = split_body(body, header_length)
    is_worth_it = header_length is not None and len(text) <= _LONGEST_REMEMBERED_BYTES
    said = _remember(text) if is_worth_it else _understand(text)
    part = BinaryPart(binary)
    inputs = tuple([_input(described, part) for described in said.inputs])
    part.require_end()
    return InferRequest(inputs, said.outputs, said.is_binary, said.id, said.parameters)


class _Described(NamedTuple):
    """One input as the JSON has it; its bytes may come behind."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    where: str
    size_bytes: object
    data: object


class _Text(NamedTuple):
    """The JSON of a request; never changed."""

    inputs: tuple[_Described, ...]
    outputs: tuple[RequestedOutput, ...]
    is_binary: bool
    id: str | None
    parameters: Parameters


def _understand(text: bytes) -> _Text:
    content = strict_json.parse(text, "the body")
    if not isinstance(content, dict):
        raise RequestError(400, f"the body: expected an object with inputs, found {excerpt(content)}")
    parameters = _parameters(content, "the request")
    inputs = tuple(_describe(entry, where) for entry, where in _entries(content.get("inputs"), "inputs"))
    if not inputs:
        raise RequestError(400, "inputs: expected at least one, found none")
    is_binary = _truth(parameters, "binary_data_output", False, "the request")
    listed = content.get("outputs")
    outputs = () if listed is None else tuple(_output(*pair, is_binary) for pair in _entries(listed, "outputs"))
    return _Text(inputs, outputs, is_binary, _id(content), parameters)


_remember = functools.lru_cache(_REMEMBERED_TEXTS)(_understand)


def parse_raw(body: Body, spec: TensorSpec) -> InferRequest:
    """Read a request whose body is the bytes of the model's only input.

    Args:
        spec: of the input; one of its lengths may be open, and follows from the length of the body.

    Raises:
        RequestError: the body does not fit.
    """
    where = f"inputs[0] ({spec.name})"
    if spec.datatype == datatypes.BYTES:
        array = datatypes.text_array([bytes(body)]).reshape([1] * len(spec.shape))
    else:
        row_bytes = datatypes.DTYPES[spec.datatype].itemsize
        row_bytes *= datatypes.count_elements([length for length in spec.shape if length >= 0])
        if spec.shape.count(-1) > 1 or not row_bytes:
            raise RequestError(
                400, f"{where}: expected a shape with one open length for raw bytes, found {list(spec.shape)}"
            )
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
    datatype = datatypes.require_datatype(entry.get("datatype"), f"{where}: datatype")
    shape = datatypes.require_shape(entry.get("shape"), f"{where}: shape")
    size_bytes = _parameters(entry, where).get("binary_data_size")
    if size_bytes is not None and "data" in entry:
        raise RequestError(400, f"{where}: expected data or binary_data_size, found both")
    return _Described(entry["name"], datatype, shape, where, size_bytes, entry.get("data"))


def _input(said: _Described, part: BinaryPart) -> InputTensor:
    name, datatype, shape, where, size_bytes, data = said
    if size_bytes is None:
        array = elements.from_json(data, datatype, shape, f"{where}: data")
    else:
        array = datatypes.from_bytes(part.take(size_bytes, where), datatype, shape, where)
    return InputTensor(name, datatype, array)


def _output(entry: dict[str, Any], where: str, is_binary: bool) -> RequestedOutput:
    return RequestedOutput(entry["name"], _truth(_parameters(entry, where), "binary_data", is_binary, where))


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


def _id(content: dict[str, Any]) -> str | None:
    found = content.get("id")
    if found is not None and not isinstance(found, str):
        raise RequestError(400, f"id: expected a text, found {excerpt(found)}")
    return found
