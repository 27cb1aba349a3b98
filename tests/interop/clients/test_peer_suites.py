"""What other servers' own suites ask for: Triton's L0_http, and TensorFlow Serving's test of its REST handler.

Each check is theirs by name, asked of a real server in our words. Where ours answers otherwise on purpose (another
status, a feature that is not offered), the line has the reason.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading

import numpy
import pytest
import torch
from serving import Server

from serve.publishing.publish import publish

MODELS = '''
import torch
from torch import nn

class One(nn.Module):
    """Answers with what it is given."""
    def __init__(self, example, axes=None):
        super().__init__()
        self.example_inputs, self.scale = example, nn.Parameter(torch.ones(1))
        if axes:
            self.dynamic_axes = axes
    def forward(self, inputs):
        return inputs

class Texts(nn.Module):
    example_inputs = [["a"]]
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
    def inputs_to_tensors(self, inputs):
        return torch.tensor([[ord(letter) for letter in row[0].ljust(8)] for row in inputs])
    def forward(self, codes):
        return codes
    def tensors_to_outputs(self, codes):
        return [["".join(map(chr, row)).strip()] for row in codes.tolist()]

class Simple(nn.Module):
    """Triton's model "simple": the sum and the difference."""
    example_inputs = {"INPUT0": [list(range(16))], "INPUT1": [list(range(16))]}
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
    def forward(self, INPUT0, INPUT1):
        return {"OUTPUT0": INPUT0 + INPUT1, "OUTPUT1": INPUT0 - INPUT1}

class HalfPlusTwo(nn.Module):
    """TensorFlow Serving's."""
    example_inputs = [1.0, 2.0]
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5]))
    def forward(self, x):
        return x * self.scale + 2

class Slow(HalfPlusTwo):
    batchable = False
    def forward(self, x):
        import time
        time.sleep(float(x[0]) / 10)
        return super().forward(x)
'''
KINDS = {
    "identity": ("One", {"example": [[0.5] * 8], "axes": {"inputs": [1]}}),
    "int64": ("One", {"example": [[3]]}),
    "two_open": ("One", {"example": [[[0.5]]], "axes": {"inputs": [1, 2]}}),
    "texts": ("Texts", {}),
    "simple": ("Simple", {}),
    "half_plus_two": ("HalfPlusTwo", {}),
    "queue": ("Slow", {}),
}


@pytest.fixture(scope="module", params=["gthread", "asgi"])
def port(tmp_path_factory, request):
    pytest.importorskip("a2wsgi")
    directory = tmp_path_factory.mktemp("peers")
    (directory / "peers.py").write_text(MODELS)
    lines = []
    for name, (kind, arguments) in KINDS.items():
        scale = torch.tensor([0.5 if name in ("half_plus_two", "queue") else 1.0])
        torch.save({"scale": scale}, directory / f"{name}.pt")
        publish(directory / f"{name}.pt", directory / name, version="123")
        more = ", ".join(f"{key} = {_toml(value)}" for key, value in arguments.items())
        lines += [f"[models.{name}]", f'model = "peers:{kind}"', f'checkpoints = "{name}"', f"model_args = {{{more}}}"]
    (directory / "models.toml").write_text("\n".join(lines))
    settings = {"worker": request.param, "workers": 1, "config": "models.toml", "python_path": directory, "poll_s": 1}
    settings |= {"model": None, "name": None, "checkpoints": None, "max_body_bytes": 1_000_000, "max_queue": 2}
    server = Server(directory, directory, settings)
    server.wait_for_events("swapped", len(KINDS))
    yield server.port
    server.stop()


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + "}"
    return json.dumps(value)


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body if isinstance(body, (bytes, type(None))) else json.dumps(body), headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content, reply


def infer(port, model, *inputs, **rest):
    status, content, reply = ask(port, "POST", f"/v2/models/{model}/infer", {"inputs": list(inputs), **rest})
    if length := reply.getheader("Inference-Header-Content-Length"):
        return status, json.loads(content[: int(length)]), content[int(length) :]
    return status, json.loads(content), b""


def assert_error(port, *request, status=400, **headers):
    found, content, _ = ask(port, *request, **headers)
    assert found == status, content
    return json.loads(content)["error"]


RAW = {"Inference_Header_Content_Length": "0"}


# Triton, qa/L0_http/http_test.py


@pytest.mark.parametrize("count", [8, 32])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_raw_binary(port, count, is_chunked):
    sent = numpy.arange(count, dtype="f4").tobytes()
    # A raw body has one row where the first dimension is open.
    if is_chunked:
        body = b"%X\r\n%s\r\n0\r\n\r\n" % (len(sent), sent)
        with socket.create_connection(("127.0.0.1", port)) as wire:
            wire.sendall(
                b"POST /v2/models/half_plus_two/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 0\r\n"
                b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body
            )
            content = b"".join(iter(lambda: wire.recv(65536), b""))
        assert content.startswith(b"HTTP/1.1 200")
        assert content.endswith((numpy.arange(count, dtype="f4") / 2 + 2).tobytes())
        return
    status, content, reply = ask(port, "POST", "/v2/models/half_plus_two/infer", sent, **RAW)
    assert status == 200, content
    found = content[int(reply.getheader("Inference-Header-Content-Length")) :]
    assert found == (numpy.arange(count, dtype="f4") / 2 + 2).tobytes()


def test_raw_binary_that_is_no_shape(port):
    # test_multi_variable_dimensions, test_multi_inputs, test_byte_too_many_elements
    assert "inputs" in assert_error(port, "POST", "/v2/models/two_open/infer", bytes(16), **RAW)
    found = assert_error(port, "POST", "/v2/models/simple/infer", bytes(128), **RAW)
    assert "expected 0 only for a model of one input" in found
    assert_error(port, "POST", "/v2/models/int64/infer", b"427", **RAW)


def test_text(port):
    # test_byte
    tensor = {"name": "inputs", "datatype": "BYTES", "shape": [1, 1], "data": ["427"]}
    status, head, _ = infer(port, "texts", tensor)
    assert (status, head["outputs"][0]["data"]) == (200, ["427"])


def test_descriptive_status_code(port):
    # More requests at once than may wait are turned away with 503 at once, and answered afterwards.
    found = []

    def one():
        tensor = {"name": "inputs", "datatype": "FP32", "shape": [1], "data": [5]}
        found.append(infer(port, "queue", tensor)[0])

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {200, 503}


@pytest.mark.parametrize("shape", [[2**4, 2**60 + 2], [2**2, 2**60 + 2], [2, -5], [2**63, 2]])
def test_buffer_size_overflow_and_negative_dimensions(port, shape):
    tensor = {"name": "inputs", "shape": shape, "datatype": "FP32", "data": [1.0]}
    status, head, _ = infer(port, "identity", tensor)
    assert status == 400  # Triton answers 500 to a negative one
    assert "shape" in head["error"]


def test_loading_what_is_no_model_of_ours(port):
    # test_loading_large_invalid_model, test_load_oversized_file_parameter
    large = {"parameters": {"config": "{}", "file:1/model.onnx": "A" * 2_000_000}}
    assert ask(port, "POST", "/v2/repository/models/invalid_onnx/load", large)[0] in (404, 413)
    small = {"parameters": {"file:" + "A" * 256: "YQ==", "config": "{}"}}
    assert assert_error(port, "POST", "/v2/repository/models/identity/load", small)
    assert ask(port, "GET", "/v2/health/ready")[0] == 200


@pytest.mark.parametrize(("model", "value"), [("texts", '"hello"'), ("int64", "123")])
def test_json_recursion_depth_limit(port, model, value):
    datatype = {"texts": "BYTES", "int64": "INT64"}[model]
    for depth in (50, 120):
        tensor = '{"name": "inputs", "datatype": "%s", "shape": [1, 1], "data": %s}'
        body = '{"inputs": [%s]}' % (tensor % (datatype, "[" * depth + value + "]" * depth))
        # Data nested otherwise than the shape is refused; Triton's flattens 50 levels.
        assert_error(port, "POST", f"/v2/models/{model}/infer", body.encode())


def test_duplicate_output_names(port):
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [1, 8], "data": list(range(8))}
    status, head, _ = infer(port, "identity", tensor, outputs=[{"name": "outputs"}] * 2)
    assert status == 400
    assert "outputs" in head["error"]


def test_repository_index_deeply_nested_json(port):
    nested = b'{"ready":' + b"[" * 250_000 + b"true" + b"]" * 250_000 + b"}"
    assert_error(port, "POST", "/v2/repository/index", nested)
    assert_error(port, "POST", "/v2/repository/index", b'{"ready": [true]}')
    assert ask(port, "GET", "/v2/health/live")[0] == 200


@pytest.mark.parametrize("length", ["99999999999", "-1", "1e3", "x", "9" * 400])
def test_inference_header_content_length_out_of_range(port, length):
    headers = {"Inference_Header_Content_Length": length}
    assert_error(port, "POST", "/v2/models/identity/infer", b'{"inputs": []}', **headers)


# qa/L0_http/test.sh, http_input_size_limit_test.py, http_request_many_chunks.py

ROW = {"datatype": "INT64", "shape": [1, 16], "data": list(range(1, 17))}
BOTH = ({"name": "INPUT0", **ROW}, {"name": "INPUT1", **ROW})


@pytest.mark.parametrize(
    ("parameters", "outputs", "binary"),
    [
        ({}, None, ()),
        ({}, [{"binary_data": True}, {"binary_data": False}], ("OUTPUT0",)),
        ({}, [{"binary_data": True}, {}], ("OUTPUT0",)),
        ({"binary_data_output": True}, None, ("OUTPUT0", "OUTPUT1")),
        # Triton's answers the second as JSON; the extension's text is with us.
        ({"binary_data_output": True}, [{"binary_data": False}, {}], ("OUTPUT1",)),
    ],
)
def test_combinations_of_binary_and_json(port, parameters, outputs, binary):
    rest = {"parameters": parameters}
    if outputs:
        rest["outputs"] = [{"name": f"OUTPUT{place}", "parameters": one} for place, one in enumerate(outputs)]
    status, head, rest = infer(port, "simple", *BOTH, **rest)
    assert status == 200
    for output, right in zip(head["outputs"], ([2 * number for number in ROW["data"]], [0] * 16)):
        if output["name"] in binary:
            size = output["parameters"]["binary_data_size"]
            found, rest = numpy.frombuffer(rest[:size], "<i8").tolist(), rest[size:]
        else:
            found = output["data"]
        assert found == right
    assert rest == b""


@pytest.mark.parametrize("count", [15, 18, 0])
def test_data_that_is_not_as_long_as_its_shape(port, count):
    wrong = {"name": "INPUT0", **ROW, "data": list(range(count))}
    status, head, _ = infer(port, "simple", wrong, BOTH[1])
    assert status == 400
    assert "INPUT0" in head["error"]


def test_compressed_requests_and_answers(port):
    body = gzip.compress(json.dumps({"inputs": BOTH}).encode())
    status, content, _ = ask(port, "POST", "/v2/models/simple/infer", body, Content_Encoding="gzip")
    assert (status, json.loads(content)["outputs"][1]["data"]) == (200, [0] * 16)


def test_input_size_limit(port):
    # Triton answers 400; a body that is too long is 413.
    for sent, headers in ((bytes(1_000_004), RAW), (b"[" + b"1," * 500_000 + b"1]", {})):
        assert "expected at most 1000000 bytes" in assert_error(
            port, "POST", "/v2/models/half_plus_two/infer", sent, status=413, **headers
        )
    assert ask(port, "POST", "/v2/models/half_plus_two/infer", bytes(999_996), **RAW)[0] == 200


def test_many_chunks(port):
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.sendall(
            b"POST /v2/models/half_plus_two/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 0\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + b"1\r\nA\r\n" * 65_536 + b"0\r\n\r\n"
        )
        content = b"".join(iter(lambda: wire.recv(65536), b""))
    assert content.startswith(b"HTTP/1.1 200")


# TensorFlow Serving, http_rest_api_handler_test.cc


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/foo", 404),
        ("POST", "/v1/foo", 404),
        ("GET", "/v1/models/debug/model_name", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/models/half_plus_two:predict", 405),
        ("GET", "/v1/models/half_plus_two/version/50:predict", 404),
        ("POST", "/v1/models/half_plus_two/version/50:regress", 404),
        ("POST", "/v1/models/half_plus_two/versions/HELLO:regress", 405),
        ("POST", f"/v1/models/half_plus_two/versions/{2**64 - 1}:regress", 405),
        ("POST", "/v1/models/half_plus_two/metadata", 405),
        ("POST", "/v1/models/half_plus_two/label/some_label:regress", 404),
        ("POST", "/v1/models/half_plus_two/versions/50/labels/some_label:regress", 404),
        ("POST", "/v1/models/foo:predict", 404),
        ("POST", "/v1/models/foo/versions/50:predict", 404),
        ("POST", "/v1/models/half_plus_two99:predict", 404),
        ("POST", "/v1/models/half_plus_two/versions/50:predict", 404),
        ("POST", "/v1/models/half_plus_two/labels/nobody:predict", 404),
        ("GET", "/statuspage", 404),
    ],
)
def test_unsupported_calls(port, method, path, status):
    # Theirs are 400 "Malformed request"; these are the statuses of HTTP.
    assert_error(port, method, path, {"instances": [1.0]} if method == "POST" else None, status=status)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"instances = [1, 2]", 400),
        (b'{"instances": ["x", "y"]}', 422),
        (b'{"signature_name": 100, "instances": [1.0]}', 400),
        (b'{"instances": [1.0], "inputs": [1.0]}', 400),
        (b"{}", 400),
    ],
)
def test_predict_request_errors(port, body, status):
    found = assert_error(port, "POST", "/v1/models/half_plus_two:predict", body, status=status)
    assert "expected" in found


@pytest.mark.parametrize("place", ["", "/versions/123", "/labels/stable"])
def test_predict_and_status(port, place):
    path = f"/v1/models/half_plus_two{place}"
    for sent, right in (
        ({"instances": [1.0, 2.0]}, {"predictions": [2.5, 3.0]}),
        ({"signature_name": "serving_default", "instances": [3.0, 4.0]}, {"predictions": [3.5, 4.0]}),
        ({"signature_name": "serving_default", "inputs": [3.0, 4.0]}, {"outputs": [3.5, 4.0]}),
        ({"instances": []}, {"predictions": []}),
    ):
        status, content, reply = ask(port, "POST", f"{path}:predict", sent)
        assert (status, json.loads(content), reply.getheader("Content-Type")) == (200, right, "application/json")
    status, content, _ = ask(port, "GET", path)
    state = {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert (status, json.loads(content)["model_version_status"]) == (200, [state])


def test_metadata(port):
    status, content, _ = ask(port, "GET", "/v1/models/half_plus_two/metadata")
    found = json.loads(content)
    assert (status, found["model_spec"]["name"], found["model_spec"]["version"]) == (200, "half_plus_two", "123")
    assert "serving_default" in found["metadata"]["signature_def"]["signature_def"]
