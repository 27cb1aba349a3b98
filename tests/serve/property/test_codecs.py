"""Whatever bytes come, a decoder gives a value or a `RequestError`; and what is written is read back the same."""

from __future__ import annotations

import gzip
import json

import hypothesis.extra.numpy as arrays_of
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.codec import datatypes, image, npy, safetensors
from serve.codec.oip import InferAnswer, InferRequest, RequestedOutput, TensorSpec, encode_infer, parse_infer, parse_raw
from serve.errors import RequestError
from serve.http import messages
from serve.protocols import tfserving

SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NUMBERS = st.sampled_from(list(datatypes.DTYPES.values())).flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES))
FINITE = NUMBERS.filter(lambda array: bool(np.isfinite(array).all()))
TEXTS = st.lists(st.text(st.characters(blacklist_categories=("Cs",)))).map(
    lambda texts: datatypes.text_array([text.encode() for text in texts])
)


def assert_same(left, right):
    assert left.shape == right.shape
    if left.dtype.kind == "O":
        assert left.tolist() == right.tolist()
    else:
        assert left.dtype == right.dtype
        assert left.tobytes() == right.tobytes()


def send(arrays, is_binary):
    """Write arrays as an answer, and make a request of it."""
    wanted = InferRequest((), tuple(RequestedOutput(name, is_binary) for name in arrays))
    headers, parts = encode_infer(InferAnswer("m", "1", arrays), wanted)
    body = b"".join(parts)
    length = int(headers.get("Inference-Header-Content-Length", len(body)))
    content = json.loads(body[:length])
    text = json.dumps({"inputs": content["outputs"]}).encode()
    return text + body[length:], str(len(text))


@given(st.dictionaries(st.sampled_from("abc"), FINITE | TEXTS, min_size=1), st.booleans())
def test_what_v2_writes_it_reads(arrays, is_binary):
    found = parse_infer(*send(arrays, is_binary))
    for tensor in found.inputs:
        expected = arrays[tensor.name]
        assert tensor.datatype == datatypes.name_of(expected.dtype)
        if is_binary or expected.dtype.kind != "f":
            assert_same(tensor.array, expected)
        else:
            assert (tensor.array == expected).all()


@given(NUMBERS, st.sampled_from("CF"))
def test_what_npy_writes_it_reads(array, order):
    assert_same(npy.decode(npy.encode(np.asarray(array, order=order))), array)


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), NUMBERS, min_size=1))
def test_what_safetensors_writes_it_reads(arrays):
    found = safetensors.decode(safetensors.encode(arrays))
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert_same(found[name], array)


PARSERS = {
    "v2": lambda body: parse_infer(body),
    "v2 and bytes": lambda body: parse_infer(body, str(len(body) // 2)),
    "raw": lambda body: parse_raw(body, TensorSpec("x", "FP32", (-1, 3))),
    "npy": npy.decode,
    "safetensors": safetensors.decode,
    "image": image.decode,
    "tfserving": tfserving.parse_predict,
    "gzip": lambda body: messages.decompress(body, "gzip", 1000),
    "deflate": lambda body: messages.decompress(body, "deflate", 1000),
}
SAMPLES = [
    npy.encode(np.ones((2, 3))),
    safetensors.encode({"x": np.ones((2, 3))}),
    gzip.compress(b"content" * 9),
    send({"x": np.ones((2, 3)), "t": datatypes.text_array([b"ab", b"c"])}, True)[0],
    b'{"instances": [{"a": [1, 2], "b": {"b64": "aGk="}}]}',
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H\xaf\xa4q\0\0\0\0IEND\xaeB`\x82",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: (
        st.lists(part)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "name", "shape", "datatype", "data", "parameters", "binary_data_size", "instances"]
            )
            | st.text(),
            part,
        )
    ),
)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | JSON,
        "datatype": st.sampled_from([*datatypes.DTYPES, "BYTES", "BF16", "FP8"]),
        "shape": st.lists(st.integers(-1, 3) | st.integers()) | JSON,
        "data": st.lists(st.integers(0, 2) | JSON) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 99)}) | JSON,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS) | JSON}, optional={"outputs": st.lists(TENSORS) | JSON, "id": JSON, "parameters": JSON}
)


@st.composite
def damaged(draw):
    """A sound body with some of its bytes changed, cut off, or added."""
    body = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 4))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body[: draw(st.integers(0, len(body)))]) + draw(st.binary(max_size=8))


@settings(deadline=None)
@given(st.binary() | damaged() | REQUESTS.map(lambda content: json.dumps(content).encode()))
def test_nothing_but_a_request_error(body):
    refusals = []
    for parse in PARSERS.values():
        try:
            parse(body)
        except RequestError as error:
            refusals.append(error)
    assert {error.status for error in refusals} <= {400, 413}
    assert all(len(error.message) < 1000 for error in refusals)
