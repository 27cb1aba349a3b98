"""Models that write into what they take, behind both workers: a shadow of the same weights never differs."""

from __future__ import annotations

import json
import threading

import pytest
from serving import wait_until

pytestmark = [pytest.mark.needs_torch, pytest.mark.both_workers]
torch = pytest.importorskip("torch")

import in_place  # noqa: E402
import numpy  # noqa: E402
import safetensors.torch  # noqa: E402

from serve.publishing.publish import publish  # noqa: E402

TOML = """
[models.m]
model = "in_place:Writing"
model_args = {how = "mul_"}
checkpoints = "ck"
max_batch_delay_ms = 2
[models.m.shadow]
checkpoints = "dark"
"""
ASKED = 48


def ask(client, row, form):
    if form == "json":
        return client.request("POST", "/predict/m", json.dumps({"inputs": row.tolist()}).encode()).json["outputs"]
    tensor = {"name": "inputs", "datatype": "FP32", "shape": row.shape}
    path = "/v2/models/m/infer"
    if form == "v2 json":
        body, headers = json.dumps({"inputs": [{**tensor, "data": row.ravel().tolist()}]}).encode(), {}
    else:
        text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": row.nbytes}}]}).encode()
        body, headers = text + row.tobytes(), {"Inference-Header-Content-Length": str(len(text))}
    return [client.request("POST", path, body, headers).json["outputs"][0]["data"]]


def test_they_answer_as_their_shadow(tmp_path, start_server):
    module = in_place.Writing("mul_").eval()
    safetensors.torch.save_file(module.state_dict(), str(tmp_path / "m.safetensors"))
    for place in ("ck", "dark"):
        publish(tmp_path / "m.safetensors", tmp_path / place, "m.safetensors")
    (tmp_path / "serve.toml").write_text(TOML)
    server = start_server(model=None, name=None, checkpoints=None, workers=1)
    server.wait_for_events("swapped", 2)
    wrong = []

    def load(seed, form):
        draw, client = numpy.random.default_rng(seed), server.client()
        for _ in range(ASKED // 6):
            row = draw.normal(size=(1, 4)).astype("float32")
            with torch.no_grad():
                right = module(torch.from_numpy(row.copy()))
            found = ask(client, row, form)
            if not torch.allclose(torch.tensor(found), right, atol=1e-5):
                wrong.append((form, row, found))

    forms = ("json", "v2 json", "v2 binary")
    threads = [threading.Thread(target=load, args=(seed, forms[seed % 3])) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

    def compared():
        lines = server.get("/metrics").body.decode().splitlines()
        counts = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("envserve_shadow")}
        return counts if sum(counts.values()) >= ASKED else None

    counts = wait_until(compared, f"{ASKED} comparisons", lambda: server.get("/metrics").body.decode())
    assert not any(count for name, count in counts.items() if "differed" in name or "failed" in name), counts
