"""Ray Serve: one deployment, a replica for each worker."""

import json
import os
import time

import ray
from ray import serve


@serve.deployment(num_replicas=int(os.environ["BENCH_WORKERS"]), max_ongoing_requests=64)
class Model:
    def __init__(self):
        import models

        self.models, self.model = models, models.load()

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
    serve.run(Model.bind(), route_prefix="/")
    while True:
        time.sleep(3600)
