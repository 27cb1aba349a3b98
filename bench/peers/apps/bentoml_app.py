"""BentoML: one service, a process for each worker."""

import os

import bentoml
import models
import torch


@bentoml.service(workers=int(os.environ["BENCH_WORKERS"]), metrics={"enabled": False})
class Service:
    def __init__(self):
        self.model = models.load()

    @bentoml.api(route="/json")
    def predict(self, inputs: list) -> dict:
        with torch.inference_mode():
            return {"outputs": self.model(torch.tensor(inputs, dtype=torch.float32)).tolist()}
