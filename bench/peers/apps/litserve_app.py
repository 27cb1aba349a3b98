"""LitServe, with its batches: JSON only, as its server reads nothing else."""

import os

import litserve
import models
import torch


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = models.load()

    def decode_request(self, request):
        return torch.tensor(request["inputs"], dtype=torch.float32)

    def predict(self, rows):
        with torch.inference_mode():
            return self.model(rows)

    def encode_response(self, outputs):
        return {"outputs": outputs.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"]))
    server.run(port=int(os.environ["BENCH_PORT"]), num_api_servers=1, generate_client_file=False, log_level="warning")
