"""Ray Serve: one deployment, a replica for each worker."""

import json
import os
import time
from pathlib import Path

import ray
from ray import serve


@serve.deployment(num_replicas=int(os.environ["BENCH_WORKERS"]), max_ongoing_requests=64)
class Model:
    def __init__(self, weights):
        import models

        self.models, self.model = models, models.load(directory=weights)

    async def __call__(self, request):
        import torch
        from starlette.responses import Response

        if request.method == "GET":
            return {}
        body = await request.body()
        is_binary = request.headers.get("content-type") == "application/octet-stream"
        with torch.inference_mode():
            if is_binary:
                outputs = self.model(self.models.from_bytes(body))
                return Response(outputs.numpy().tobytes(), media_type="application/octet-stream")
            rows = torch.tensor(json.loads(body)["inputs"], dtype=torch.float32)
            return {"outputs": self.model(rows).tolist()}


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=4, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    stated, served = Path("weights"), None  # in the directory that the harness has made for it
    while True:
        wanted = stated.read_text() if stated.exists() else os.environ["BENCH_WEIGHTS"]
        if wanted != served:
            serve.run(Model.bind(wanted), route_prefix="/")
            served = wanted
        time.sleep(0.05)
