"""The client that is generated from the protocol's own OpenAPI file: `generated.py PORT`."""

import sys

from open_inference.openapi.client import InferenceRequest, OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError


def ask(client, data, name="affine"):
    tensor = {"name": "inputs", "shape": [1, 4], "datatype": "FP32", "data": data}
    return client.model_infer(name, request=InferenceRequest(id="7", inputs=[tensor]))


def refuse(call, status):
    found = None
    try:
        call()
    except ApiError as error:
        found = error.status_code
    assert found == status, found


def main():
    client = OpenInferenceClient(base_url=f"http://127.0.0.1:{sys.argv[1]}")
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_readiness("affine")
    client.check_model_version_readiness("affine", "1")
    assert client.read_server_metadata().name == "envserve"
    metadata = client.read_model_metadata("affine")
    assert (metadata.name, metadata.versions, metadata.inputs[0].shape) == ("affine", ["1"], [-1, 4])
    assert client.read_model_version_metadata("affine", "1").platform == metadata.platform
    found = ask(client, [1, 2, 3, 4])
    assert (found.id, found.model_name, found.model_version) == ("7", "affine", "1")
    assert found.outputs[0].shape == [1, 2]
    assert found.outputs[0].datatype == "FP32"
    refuse(lambda: ask(client, [1, 2, 3]), 400)
    refuse(lambda: ask(client, [1, 2, 3, 4], "unknown"), 404)


main()
