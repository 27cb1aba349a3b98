"""Infer requests: what is read, and what is refused with a message that says what was expected."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from serve.codec.oip import InferAnswer, InferRequest, RequestedOutput, TensorSpec, encode_infer, parse_infer, parse_raw
from serve.errors import RequestError

TENSOR = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, 3, 4]}


def pack(content, *parts):
    """A body with its tensors after the JSON, and the header that says so."""
    text = json.dumps(content).encode()
    return b"".join((text, *parts)), str(len(text))


def one(**changes):
    entry = {**TENSOR, **changes}
    return json.dumps({"inputs": [{key: entry[key] for key in entry if entry[key] is not None}]}).encode()


def test_json():
    request = parse_infer(json.dumps({"id": "7", "parameters": {"a": 1}, "inputs": [TENSOR]}).encode())
    (tensor,) = request.inputs
    assert (request.id, request.parameters, request.outputs, request.is_binary) == ("7", {"a": 1}, (), False)
    assert (tensor.name, tensor.datatype, tensor.array.dtype) == ("x", "FP32", np.float32)
    assert tensor.array.tolist() == [[1, 2.5], [3, 4]]


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]], ids=["flat", "nested"])
@pytest.mark.parametrize("datatype", ["UINT8", "INT64", "FP16", "FP64", "BF16"])
def test_flat_and_nested(data, datatype):
    assert parse_infer(one(data=data, datatype=datatype)).inputs[0].array.tolist() == [[1, 2], [3, 4]]


def test_texts_and_truth_values():
    texts = parse_infer(one(datatype="BYTES", shape=[2], data=["ä", "b\0"])).inputs[0].array
    assert texts.tolist() == ["ä".encode(), b"b\0"]
    assert parse_infer(one(datatype="BOOL", shape=[1, 2], data=[True, False])).inputs[0].array.tolist() == [
        [True, False]
    ]


def test_nothing_and_one():
    assert parse_infer(one(shape=[0, 3], data=[])).inputs[0].array.shape == (0, 3)
    assert parse_infer(one(shape=[], data=[5])).inputs[0].array == 5


def test_binary_is_a_view_of_the_body():
    values = np.arange(6, dtype="<i4").reshape(2, 3)
    entry = {"name": "x", "datatype": "INT32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}
    texts = {"name": "t", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}}
    body, length = pack(
        {
            "inputs": [entry, texts, {**TENSOR, "name": "j"}],
            "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
            "parameters": {"binary_data_output": True},
        },
        values.tobytes(),
        struct.pack("<I2sI1s", 2, b"ab", 1, b"c"),
    )
    request = parse_infer(body, length)
    assert request.inputs[0].array.tolist() == values.tolist()
    assert np.shares_memory(request.inputs[0].array, np.frombuffer(body, np.uint8))
    assert request.inputs[1].array.tolist() == [b"ab", b"c"]
    assert request.outputs == (RequestedOutput("a", True), RequestedOutput("b", False))


def test_bfloat16_is_read_as_float32():
    entry = {"name": "x", "datatype": "BF16", "shape": [2], "parameters": {"binary_data_size": 4}}
    body, length = pack({"inputs": [entry]}, struct.pack("<HH", 0x3FC0, 0xC000))
    assert parse_infer(body, length).inputs[0].array.tolist() == [1.5, -2.0]


# Triton's negative cases (qa/L0_http) and more.
MALFORMED = {
    "no JSON": (b"{", "expected JSON"),
    "no UTF-8": (b'{"inputs": "\xff"}', "expected JSON"),
    "NaN": (b'{"inputs": [NaN]}', "expected JSON"),
    "deep": (b"[" * 100_000, "at most 64 levels"),
    "deep after a text": (b'["' + b"]" * 99 + b'",' + b"[" * 99, "at most 64 levels"),
    "a list": (b"[]", "an object"),
    "no inputs": (b"{}", "inputs: expected a list"),
    "empty inputs": (b'{"inputs": []}', "at least one"),
    "inputs are no objects": (b'{"inputs": [1]}', r"inputs\[0\]: expected an object, found 1"),
    "no name": (one(name=None), "expected a name"),
    "the same name twice": (json.dumps({"inputs": [TENSOR, TENSOR]}).encode(), "expected each name once"),
    "no datatype": (one(datatype=None), "expected a datatype of BOOL"),
    "unknown datatype": (one(datatype="FP128"), "'FP128'"),
    "no shape": (one(shape=None), "shape: expected up to 32 lengths"),
    "negative": (one(shape=[-1, 2]), "lengths of at least 0, found .-1, 2."),
    "truth as a length": (one(shape=[True, 4]), "lengths of at least 0"),
    "fraction as a length": (one(shape=[2.0, 2]), "lengths of at least 0"),
    "many dimensions": (one(shape=[1] * 33), "up to 32 lengths"),
    "overflow of 64 bits": (one(shape=[2**33, 2**33]), "at most"),
    "overflow beside 0": (one(shape=[0, 2**63, 2**63]), "at most"),
    "huge shape": (one(shape=[2**47]), "expected 140737488355328 elements"),
    "too few": (one(data=[1]), "expected 4 elements for the shape .2, 2., found 1"),
    "nested otherwise": (one(data=[[1, 2, 3, 4]]), "found the shape .1, 4."),
    "ragged": (one(data=[[1, 2], [3]]), "expected lists of 2 elements"),
    "mixed depths": (one(data=[[1, 2], 3]), "expected lists of 2 elements"),
    "mixed depths later": (one(data=[1, [2], 3, 4]), "found lists of other depths"),
    "no data": (one(data=None), "data: expected a list"),
    "text for a number": (one(data=["1", 2, 3, 4]), "expected numbers, found a text"),
    "null": (one(data=[None, 2, 3, 4]), "expected numbers, found null"),
    "truth for a number": (one(data=[True, 2, 3, 4]), "found true or false"),
    "fraction for a whole number": (one(datatype="INT8"), "expected whole numbers, found a fraction"),
    "too large": (one(datatype="INT8", data=[1, 2, 3, 128]), "expected -128 to 127 for INT8, found 128"),
    "too small": (one(datatype="UINT64", data=[1, 2, 3, -1]), "expected 0 to 18446744073709551615"),
    "infinite as FP16": (one(datatype="FP16", data=[1, 2, 3, 1e9]), "numbers that fit float16"),
    "infinite as FP64": (one(datatype="FP64").replace(b"2.5", b"1e999"), "expected"),
    "long number": (one().replace(b"2.5", b"9" * 400), "expected"),
    "number for a text": (one(datatype="BYTES"), "expected texts"),
    "half a character": (one(datatype="BYTES", data=["\ud800"] * 4), "expected"),
    "parameters are no object": (one(parameters=[]), "parameters: expected an object"),
    "shared memory": (one(parameters={"shared_memory_region": "r"}), "found shared_memory_region"),
    "data and bytes": (one(parameters={"binary_data_size": 0}), "found both"),
    "negative size": (one(data=None, parameters={"binary_data_size": -4}), "0 to the 0 bytes left, found -4"),
    "size beyond the body": (one(data=None, parameters={"binary_data_size": 16}), "0 to the 0 bytes left, found 16"),
    "size that is no number": (one(data=None, parameters={"binary_data_size": "16"}), "found '16'"),
    "outputs": (one()[:-1] + b', "outputs": {}}', "outputs: expected a list"),
    "the same output twice": (one()[:-1] + b', "outputs": [{"name": "y"}, {"name": "y"}]}', "expected each name once"),
    "binary_data": (one()[:-1] + b', "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}', "true or false"),
    "id": (one()[:-1] + b', "id": 7}', "id: expected a text, found 7"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name):
    body, message = MALFORMED[name]
    with pytest.raises(RequestError, match=message) as caught:
        parse_infer(body)
    assert caught.value.status == 400
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "+5", "", "999", "9" * 30, "٣"])
def test_header_length_out_of_range(length):
    with pytest.raises(RequestError, match="Inference-Header-Content-Length: expected 0 to "):
        parse_infer(one(), length)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("INT32", [2], b"1234567", "expected 8 bytes for INT32 .2., found 7"),
        ("INT32", [2**40], b"12345678", "expected 4398046511104 bytes"),
        ("BOOL", [2], b"\x01\x02", "expected 0 or 1"),
        ("BYTES", [2**40], b"\0\0\0\0", "expected at least 4398046511104 bytes"),
        ("BYTES", [1], b"\xff\xff\xff\xff", "expected it to end by byte 4"),
        ("BYTES", [2], b"\x01\0\0\0ab\0\0", "element 1"),
        ("BYTES", [1], b"\0\0\0\0rest", "found more after 4"),
    ],
)
def test_bytes_that_do_not_fit(datatype, shape, data, message):
    entry = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    body, length = pack({"inputs": [entry]}, data)
    with pytest.raises(RequestError, match=message):
        parse_infer(body, length)


def test_bytes_of_no_tensor():
    body, length = pack({"inputs": [TENSOR]}, b"rest")
    with pytest.raises(RequestError, match="expected 0 bytes after its JSON part, found 4"):
        parse_infer(body, length)


def test_raw():
    request = parse_raw(struct.pack("<4f", 1, 2, 3, 4), TensorSpec("x", "FP32", (-1, 2)))
    assert request.inputs[0].array.tolist() == [[1, 2], [3, 4]]
    assert request.is_binary
    assert parse_raw(b"a text", TensorSpec("t", "BYTES", (-1,))).inputs[0].array.tolist() == [b"a text"]


@pytest.mark.parametrize(("body", "shape"), [(b"12345", (-1, 2)), (b"1234", (-1, -1)), (b"1234", (0, -1))])
def test_raw_that_does_not_fit(body, shape):
    with pytest.raises(RequestError, match=r"inputs\[0\] \(x\): expected"):
        parse_raw(body, TensorSpec("x", "FP32", shape))


ANSWER = InferAnswer(
    "m",
    "3",
    {"y": np.array([[0.5, 1]], "f4"), "label": np.array(["cat"], object), "rank": np.array([2], "i8")},
    {"sha256": "00"},
)


def encode(answer, request):
    headers, parts = encode_infer(answer, request)
    return headers, b"".join(parts)


def test_answer_in_json():
    headers, body = encode(ANSWER, InferRequest((), id="7"))
    assert headers == {"Content-Type": "application/json"}
    assert json.loads(body) == {
        "model_name": "m",
        "model_version": "3",
        "id": "7",
        "parameters": {"sha256": "00"},
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1]},
            {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["cat"]},
            {"name": "rank", "datatype": "INT64", "shape": [1], "data": [2]},
        ],
    }


def test_answer_in_bytes_in_the_order_asked_for():
    wanted = (RequestedOutput("label", True), RequestedOutput("rank", False), RequestedOutput("y", True))
    headers, body = encode(ANSWER, InferRequest((), wanted))
    length = int(headers["Inference-Header-Content-Length"])
    outputs = json.loads(body[:length])["outputs"]
    assert [output.get("parameters") for output in outputs] == [{"binary_data_size": 7}, None, {"binary_data_size": 8}]
    assert body[length:] == b"\x03\0\0\0cat" + struct.pack("<ff", 0.5, 1)
    assert headers["Content-Type"] == "application/octet-stream"


def test_answers_that_cannot_be_given():
    with pytest.raises(RequestError, match=r"expected of y, label, rank, found 'z'"):
        encode_infer(ANSWER, InferRequest((), (RequestedOutput("z", True),)))
    endless = InferAnswer("m", "3", {"y": np.array([np.nan], "f4")})
    with pytest.raises(ValueError, match="expected finite numbers"):
        encode_infer(endless, InferRequest(()))
    assert np.isnan(np.frombuffer(encode(endless, InferRequest((), is_binary=True))[1][-4:], "<f4"))
