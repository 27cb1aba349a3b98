"""Compression, `.npy`, safetensors, images, TF Serving: read back what was written, refuse what is not."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import sys
import zlib

import numpy as np
import pytest

from serve.codec import image, npy, safetensors, strict_json
from serve.errors import RequestError
from serve.http import messages
from serve.protocols import tfserving

ARRAY = np.arange(6, dtype="f4").reshape(2, 3)


def headless(body):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("", bytes),
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", headless),
    ],
)
def test_decompress(encoding, pack):
    assert messages.decompress(pack(b"content" * 99), encoding, 1000) == b"content" * 99


@pytest.mark.parametrize(
    ("encoding", "body", "status", "message"),
    [
        ("br", b"", 415, "expected gzip, deflate or none, found 'br'"),
        ("gzip, gzip", b"", 415, "found 'gzip, gzip'"),
        ("gzip", gzip.compress(b"0" * 10**7), 413, "at most 1000 bytes"),
        ("deflate", zlib.compress(b"0" * 1001), 413, "at most 1000 bytes"),
        ("gzip", b"no gzip", 400, "damaged"),
        ("gzip", b"", 400, "cut off"),
        ("gzip", gzip.compress(b"content")[:-1], 400, "cut off"),
        ("gzip", gzip.compress(b"one") + gzip.compress(b"two"), 400, "bytes after its end"),
        ("deflate", b"\xff\xff", 400, "damaged"),
    ],
)
def test_compressed_bodies_that_are_refused(encoding, body, status, message):
    with pytest.raises(RequestError, match=message) as caught:
        messages.decompress(body, encoding, 1000)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", None),
        ("gzip, deflate, br", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0.1, deflate;q=0.9", "deflate"),
        ("gzip;q=0, *", "deflate"),
        ("*;q=0", None),
        ("gzip;q=x", None),
        ("identity", None),
    ],
)
def test_choose_encoding(accepted, encoding):
    assert messages.choose_encoding(accepted) == encoding


def test_compress_only_what_is_long():
    def packed(body, **headers):
        return messages.pack(messages.Response(200, {}, body), messages.Request("GET", "/", headers, b"", {}))[1:]

    gzipped = {"accept-encoding": "gzip"}
    assert packed(b"short", **gzipped) == ({}, b"short")
    headers, body = packed(b"0" * 9999, **gzipped)
    assert (headers["Content-Encoding"], gzip.decompress(body)) == ("gzip", b"0" * 9999)
    assert packed(b"0" * 9999, **{"accept-encoding": "br"}) == ({"Vary": "Accept-Encoding"}, b"0" * 9999)
    assert packed(b"0" * 9999) == ({}, b"0" * 9999)


@pytest.mark.parametrize("dtype", ["?", "u1", "<i2", ">i4", "<i8", "<f2", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(dtype, order):
    array = np.asarray(ARRAY.astype(dtype), order=order)
    body = npy.encode(array)
    found = npy.decode(body)
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()
    assert np.shares_memory(found, np.frombuffer(body, np.uint8))


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


def npy_body(header, data=b"", version=1):
    text = header.encode()
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def saved(array):
    writer = io.BytesIO()
    np.save(writer, array, allow_pickle=True)
    return writer.getvalue()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "begin with"),
        (b"\x93NUMPY\x09\0" + b" " * 20, "begin with"),
        (npy.encode(ARRAY)[:-1], r"expected 24 bytes for float32 \[2, 3\], found 23"),
        (npy.encode(ARRAY) + b"0", "found 25"),
        (saved(np.array([{}, None])), "found the dtype '|O'"),
        (saved(np.array([(1, 2.0)], "i4,f4")), "of one array"),
        (npy_body(HEADER.replace("2, 3", "-1,")), "expected a header with"),
        (npy_body(HEADER.replace("2, 3", "2**60,")), "expected a header with"),
        (npy_body(HEADER.replace("2, 3", "9" * 17 + ", " + "9" * 17)), "at most"),
        (npy_body(HEADER.replace("2, 3", "1," * 33)), "up to 32 lengths"),
        (npy_body("{'descr': '<f4'}"), "expected a header with"),
        (npy_body("(" * 5000), "expected a header with"),
        (npy_body(HEADER.replace("2, 3", "1" * 9000)), "expected a header with"),
        (npy_body(" " * 20_000, version=2), "a header inside the body"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff    ", "a header inside the body"),
        (pickle.dumps([1]), "begin with"),
    ],
)
def test_npy_that_is_refused(body, message):
    with pytest.raises(RequestError, match=message):
        npy.decode(body)


def test_safetensors():
    body = safetensors.encode({"x": ARRAY, "n": np.array([1], "i8")})
    assert {name: array.tolist() for name, array in safetensors.decode(body).items()} == {"x": ARRAY.tolist(), "n": [1]}
    # What is not contiguous is written as it reads.
    assert safetensors.decode(safetensors.encode({"t": ARRAY.T}))["t"].tolist() == ARRAY.T.tolist()


def safetensors_body(header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff" * 16,
        safetensors.encode({"x": ARRAY})[:-1],
        safetensors_body({}),
        safetensors_body({"x": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        safetensors_body({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}),
        safetensors_body({"x": {"dtype": "F8_E4M3", "shape": [0], "data_offsets": [0, 0]}}),
        safetensors_body({"x": {"dtype": "complex", "shape": [0], "data_offsets": [0, 0]}}),
    ],
)
def test_safetensors_that_are_refused(body):
    with pytest.raises(RequestError, match="the safetensors body: expected"):
        safetensors.decode(body)


def drawn(format, size=(3, 2), mode="RGB"):
    pillow = pytest.importorskip("PIL.Image")
    writer = io.BytesIO()
    pillow.new(mode, size, 200).save(writer, format)
    return writer.getvalue()


@pytest.mark.parametrize(("format", "mode"), [("PNG", "L"), ("PNG", "RGB"), ("PNG", "P"), ("JPEG", "RGB")])
def test_images(format, mode):
    found = image.decode(drawn(format, mode=mode))
    assert (found.shape, found.dtype) == ((2, 3, 3), np.uint8)


def test_images_that_are_refused():
    png = drawn("PNG", (50, 50))
    with pytest.raises(RequestError, match="at most 2499 pixels, found 50 by 50") as caught:
        image.decode(png, 2499)
    assert caught.value.status == 413
    for body in (b"", b"no image", png[:60], png[:20] + b"\xff" * 40, drawn("GIF"), drawn("JPEG")[:50]):
        with pytest.raises(RequestError, match="expected a whole PNG or JPEG file"):
            image.decode(body)


def test_a_server_without_pillow_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(RequestError, match=r"the extra \[images\]") as caught:
        image.decode(b"")
    assert caught.value.status == 415


@pytest.fixture(params=["orjson", "json"])
def parser(request, monkeypatch):
    if request.param == "orjson":
        pytest.importorskip("orjson")
    else:
        monkeypatch.setattr(strict_json, "_orjson", lambda: None)


@pytest.mark.usefixtures("parser")
def test_json_is_read_and_written_alike():
    deep = b"[" * 64 + b"]" * 64
    assert strict_json.parse(b'{"a": [1, 2.5, null, "\\u00e4\\""]}') == {"a": [1, 2.5, None, 'ä"']}
    strict_json.parse(deep)
    strict_json.parse(b"[" + b",".join([b"[1]"] * 999) + b"]")
    strict_json.parse(b'["' + b"[" * 1_500_000 + b'"]')
    strict_json.parse(json.dumps(["[" * 99, '"[' * 99, "\\[" * 99]).encode())
    assert strict_json.dump({"a": np.array([1, 2], "i4"), "b": [0.5, "ä"]}) in (
        '{"a":[1,2],"b":[0.5,"ä"]}'.encode(),
        b'{"a":[1,2],"b":[0.5,"\\u00e4"]}',
    )
    assert strict_json.dump({1: None}) == b'{"1":null}'
    for number in (float("nan"), float("inf"), np.array([np.nan])):
        with pytest.raises(ValueError, match="JSON"):
            strict_json.dump([None, [number]])
    for body in (b"", b"[1,]", b"NaN", b"[-Infinity]", b'"\xff"', b"[" + deep + b"]", b"[" * 10**6, b"{'a': 1}"):
        with pytest.raises(RequestError, match="the body: expected JSON"):
            strict_json.parse(body)


def test_tensorflow_serving():
    rows = tfserving.parse_predict(b'{"instances": [[1, 2], [3, 4]], "signature_name": "serving_default"}')
    assert (rows.columns, rows.is_by_row) == ({"": [[1, 2], [3, 4]]}, True)
    assert tfserving.encode_predict({"y": [0.5, 1]}, rows) == b'{"predictions":[0.5,1]}'
    assert json.loads(tfserving.encode_predict({"y": [1, 2], "z": ["a", "b"]}, rows)) == {
        "predictions": [{"y": 1, "z": "a"}, {"y": 2, "z": "b"}]
    }
    named = tfserving.parse_predict(b'{"instances": [{"a": 1, "b": {"b64": "aGk="}}, {"a": 2, "b": {"b64": ""}}]}')
    assert named.columns == {"a": [1, 2], "b": [b"hi", b""]}
    assert tfserving.parse_predict(b'{"inputs": {"\\u0062\\u0036\\u0034": "aGk="}}').columns == {"": b"hi"}
    columns = tfserving.parse_predict(b'{"inputs": {"a": [[1]], "b": [2]}}')
    assert (columns.columns, columns.is_by_row) == ({"a": [[1]], "b": [2]}, False)
    assert json.loads(tfserving.encode_predict({"y": [1], "z": [2]}, columns)) == {"outputs": {"y": [1], "z": [2]}}
    assert tfserving.encode_predict({"y": [1]}, tfserving.parse_predict(b'{"inputs": [1]}')) == b'{"outputs":[1]}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "expected an object with instances or inputs"),
        (b'{"instances": [1], "inputs": [1]}', "instances or inputs"),
        (b'{"instances": 1}', "expected a list of examples, found 1"),
        (b'{"instances": [1], "x": 1}', "expected inputs, instances, signature_name"),
        (b'{"instances": [1], "signature_name": "other"}', "expected serving_default, found 'other'"),
        (b'{"instances": [1], "signature_name": []}', "expected serving_default"),
        (b'{"instances": [{"a": 1}, {"b": 1}]}', r"instances\[1\]: expected the names \['a'\]"),
        (b'{"instances": [{"a": 1}, 2]}', r"instances\[1\]"),
        (b'{"instances": [{"b64": "?"}]}', "b64: expected base64, found '\\?'"),
        (b'{"instances": [{"b64": 1}]}', "b64: expected base64"),
    ],
)
def test_tensorflow_serving_that_is_refused(body, message):
    with pytest.raises(RequestError, match=message):
        tfserving.parse_predict(body)


@pytest.mark.parametrize("outputs", [{"y": [1], "z": [1, 2]}, {"y": [1], "z": 2}])
def test_outputs_that_are_no_rows(outputs):
    with pytest.raises(ValueError, match="as many rows in each"):
        tfserving.encode_predict(outputs, tfserving.PredictRequest({}, is_by_row=True))
