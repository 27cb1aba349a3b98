"""BentoML: one service, a process for each worker."""

import os

import bentoml
import models
import torch


@bentoml.service(
    workers=int(os.environ["BENCH_WORKERS"]),
    metrics={"enabled": False},
    # Its own default writes a line for each request, which no other peer does here.
    logging={"access": {"enabled": False}},
    traffic={"max_concurrency": 1000, "timeout": 60},
)
class Service:
    def __init__(self):
        self.model = models.load()

    # As in FastAPI's: a plain function would cross two thread hand-overs for each request.
    @bentoml.api(route="/json")
    async def predict(self, inputs: list) -> dict:
        with torch.inference_mode():
            return {"outputs": self.model(torch.tensor(inputs, dtype=torch.float32)).tolist()}
