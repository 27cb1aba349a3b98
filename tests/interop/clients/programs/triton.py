"""NVIDIA's tritonclient against the server of the test: `triton.py PORT`. Ends with 0 when all is as it must be."""

import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

ROW = np.array([[1, 2, 3, 4]], np.float32)


def infer(client, is_binary, **options):
    tensor = triton.InferInput("inputs", list(ROW.shape), "FP32")
    tensor.set_data_from_numpy(ROW, binary_data=is_binary)
    outputs = [triton.InferRequestedOutput("outputs", binary_data=is_binary)]
    return client.infer("affine", [tensor], outputs=outputs, **options)


def refuse(call, *words):
    found = None
    try:
        call()
    except InferenceServerException as error:
        found = error
    assert found is not None, f"expected a refusal with {words}"
    assert found.status().startswith("4"), found
    assert all(word in found.message() for word in words), found.message()


def assert_answers(client):
    expected = infer(client, False).as_numpy("outputs")
    assert expected.dtype == np.float32
    assert expected.shape == (1, 2)
    for is_binary in (False, True):
        for options in (
            {"request_id": "7"},
            {"request_compression_algorithm": "gzip"},
            {"request_compression_algorithm": "deflate", "response_compression_algorithm": "gzip"},
            {"model_version": "1"},
        ):
            found = infer(client, is_binary, **options)
            assert (found.as_numpy("outputs") == expected).all(), options
            assert found.get_response()["model_name"] == "affine"
            assert len(found.get_response()["parameters"]["model_sha256"]) == 64
    assert infer(client, True, request_id="7").get_response()["id"] == "7"
    tensor = triton.InferInput("inputs", list(ROW.shape), "FP32").set_data_from_numpy(ROW)
    assert (client.infer("affine", [tensor]).as_numpy("outputs") == expected).all()
    assert (client.async_infer("affine", [tensor]).get_result().as_numpy("outputs") == expected).all()
    many = triton.InferInput("inputs", [5000, 4], "FP32").set_data_from_numpy(np.repeat(ROW, 5000, axis=0))
    found = client.infer("affine", [many], response_compression_algorithm="gzip").as_numpy("outputs")
    assert found.shape == (5000, 2)
    assert (found == expected).all()


def check_descriptions(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("affine")
    assert client.is_model_ready("affine", "1")
    assert not client.is_model_ready("affine", "9")
    assert not client.is_model_ready("unknown")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("affine")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, 4]}]
    assert client.get_model_config("affine")["max_batch_size"] == 0
    assert client.get_inference_statistics("affine")["model_stats"][0]["name"] == "affine"
    assert [(each["name"], each["state"]) for each in client.get_model_repository_index()] == [("affine", "READY")]
    client.load_model("affine")
    refuse(lambda: client.unload_model("affine"), "expected to be served")
    refuse(lambda: client.load_model("affine", config="{}"), "expected none")
    refuse(lambda: client.get_model_metadata("unknown"), "expected affine, found unknown")


def check_refusals(client):
    wrong = triton.InferInput("other", [1, 4], "FP32").set_data_from_numpy(ROW)
    refuse(lambda: client.infer("affine", [wrong]), "expected inputs, found other")
    wide = triton.InferInput("inputs", [1, 5], "FP32").set_data_from_numpy(np.ones((1, 5), np.float32))
    refuse(lambda: client.infer("affine", [wide]), "expected the shape [any, 4]", "found [1, 5]")
    texts = triton.InferInput("inputs", [1, 4], "BYTES").set_data_from_numpy(np.array([[b"a"] * 4], object))
    refuse(lambda: client.infer("affine", [texts]), "expected float32")
    right = triton.InferInput("inputs", [1, 4], "FP32").set_data_from_numpy(ROW)
    refuse(lambda: client.infer("affine", [right], outputs=[triton.InferRequestedOutput("z")]), "found 'z'")
    refuse(lambda: client.infer("affine", [right], outputs=[triton.InferRequestedOutput("outputs", class_count=1)]))
    refuse(lambda: client.infer("affine", [right, right]), "expected each name once")
    refuse(lambda: client.infer("affine", [right], model_version="9"), "expected 1, found 9")


def main():
    client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}", connection_timeout=60, network_timeout=60)
    check_descriptions(client)
    assert_answers(client)
    check_refusals(client)
    client.close()


main()
