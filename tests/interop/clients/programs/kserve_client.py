"""KServe's client against the server of the test, both of its protocols: `kserve_client.py PORT`."""

import asyncio
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

ROW = np.array([[1, 2, 3, 4]], np.float32)


async def check_v2(url):
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "affine")
    answers = []
    for is_binary in (False, True):
        tensor = InferInput("inputs", [1, 4], "FP32")
        tensor.set_data_from_numpy(ROW, binary_data=is_binary)
        found = await client.infer(url, InferRequest("affine", [tensor], request_id="7"), model_name="affine")
        # The client drops the version of an answer.
        assert (found.id, found.model_name) == ("7", "affine")
        answers.append(found.outputs[0].as_numpy())
        assert answers[-1].shape == (1, 2)
    assert (answers[0] == answers[1]).all()
    wrong = InferInput("inputs", [1, 5], "FP32")
    wrong.set_data_from_numpy(np.ones((1, 5), np.float32), binary_data=True)
    for name, status in (("affine", 422), ("unknown", 404)):
        found = None
        try:
            await client.infer(url, InferRequest(name, [wrong]), model_name=name)
        except httpx.HTTPStatusError as error:
            found = error.response
        assert found is not None, f"expected {status} for {name}"
        assert found.status_code == status, found.status_code
        assert "expected" in found.json()["error"]
    await client.close()
    return answers[0].tolist()


async def check_v1(url):
    client = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    assert await client.is_model_ready(url, "affine")
    found = await client.infer(url, {"instances": ROW.tolist()}, model_name="affine")
    await client.close()
    return found["predictions"]


def main():
    url = f"http://127.0.0.1:{sys.argv[1]}"
    assert asyncio.run(check_v2(url)) == asyncio.run(check_v1(url))


main()
